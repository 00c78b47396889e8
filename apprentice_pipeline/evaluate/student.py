"""A base with its adapter, answering: conversations in, greedy answers with confidence out.

What belongs here: loading, rendering, decoding, confidence. What does not: scoring answers,
choosing who is served. Promises: an answer depends on its conversation alone, whatever shares
its batch or went before it, up to floating-point noise; nothing is downloaded and no code of a
model's is run; chat templates are rendered in transformers' sandbox.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.distill.loading import load_base
from apprentice_pipeline.distill.rows import render
from apprentice_pipeline.errors import ArtifactError
from apprentice_pipeline.evaluate.student_drafts import Drafts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. `confidence` in [0, 1] is the probability of the whole answer under the
    student: the product of its token probabilities, the end token included.

    `finish_reason` is "stop" at the end token, "length" at `max_new_tokens` or when the
    conversation leaves no room in the context (then `text` is empty, confidence 0).
    `latency_us` is the time of the batch the answer was made in.
    """

    text: str
    confidence: float
    input_tokens: int
    output_tokens: int
    latency_us: int
    finish_reason: str


@dataclass(slots=True)
class _Answer:
    """Tokens so far, their summed log-probability (nats), and whether the end was reached."""

    tokens: list[int]
    log_probability: float
    ended: bool


class Student:
    """A loaded model; not for use from two threads at once."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", ends: frozenset[int]
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._ends = ends
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
        self._drafts = Drafts() if _rewinds(model) else None
        self.context_tokens = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)

    @classmethod
    def load(cls, base: Path, adapter: Path | None) -> "Student":
        """Loads `base` and merges `adapter` into it; float32 on CPU, on CUDA where there is one.

        Raises: BaseModelMissing, ArtifactError (the adapter does not load or fit this base).
        """
        model, tokenizer = load_base(base)
        import torch

        if adapter is not None:
            model = _merge(model, adapter)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        model.requires_grad_(False)
        return cls(model, tokenizer, _end_tokens(model, tokenizer))

    def generate(
        self,
        conversations: Sequence[Sequence[dict[str, Any]]],
        *,
        max_new_tokens: int = 256,
        batch_size: int = 16,
    ) -> list[Generation]:
        """Answers in the order asked; conversations of similar length share a batch."""
        prompts = render(conversations, self._tokenizer, open_answer=True)
        ids = (
            self._tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
            if prompts
            else []
        )
        answers: dict[int, Generation] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = self._batch([ids[i] for i in numbers], max_new_tokens)
            answers.update(zip(numbers, batch, strict=True))
        return [answers[i] for i in range(len(ids))]

    def _batch(self, prompts: list[list[int]], max_new_tokens: int) -> list[Generation]:
        import torch

        started = time.perf_counter_ns()
        room = min(max_new_tokens, self.context_tokens - max(map(len, prompts)))
        if room < 1 and len(prompts) > 1:
            return [self._batch([prompt], max_new_tokens)[0] for prompt in prompts]
        with torch.inference_mode():
            if room < 1:
                answers = [_Answer([], -math.inf, ended=False)]
            elif len(prompts) == 1:
                answers = [self._decode_one(prompts[0], room)]
            else:
                answers = self._decode(prompts, room)
        took_us = (time.perf_counter_ns() - started) // 1000
        return [self._generation(p, a, took_us) for p, a in zip(prompts, answers, strict=True)]

    def _generation(self, prompt: list[int], answer: _Answer, latency_us: int) -> Generation:
        shown = answer.tokens[:-1] if answer.ended else answer.tokens
        return Generation(
            text=self._tokenizer.decode(shown, skip_special_tokens=True),
            confidence=math.exp(answer.log_probability),
            input_tokens=len(prompt),
            output_tokens=len(answer.tokens),
            latency_us=latency_us,
            finish_reason="stop" if answer.ended else "length",
        )

    def _decode(self, prompts: list[list[int]], room: int) -> list[_Answer]:
        """Greedy decoding of a left-padded batch, one token a step for every open answer."""
        import torch

        width = max(map(len, prompts))
        tokens = torch.tensor([[self._pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        tokens, mask = tokens.to(self._model.device), mask.to(self._model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        answers = [_Answer([], 0.0, ended=False) for _ in prompts]
        cache: Any = None
        for _ in range(room):
            out = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            scores, chosen = _best(out.logits[:, -1])
            for answer, token, score in zip(answers, chosen.tolist(), scores.tolist(), strict=True):
                if not answer.ended:
                    self._extend(answer, token, score)
            if all(answer.ended for answer in answers):
                break
            tokens = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            positions = positions[:, -1:] + 1
        return answers

    def _decode_one(self, prompt: list[int], room: int) -> _Answer:
        """Greedy decoding of one answer, several tokens a step where a draft proves right.

        A draft is what earlier answers went on with from here; the model scores it in one pass
        and keeps the part it would have chosen itself (speculative decoding, greedy case:
        Leviathan et al. 2023), so the answer is the one of plain decoding.
        """
        import torch

        answer, pending, cache = _Answer([], 0.0, ended=False), list(prompt), None
        while not answer.ended and len(answer.tokens) < room:
            draft = self._drafts.propose(answer.tokens) if self._drafts else []
            draft = draft[: room - len(answer.tokens) - 1]
            out = self._model(
                input_ids=torch.tensor([pending + draft], device=self._model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=len(draft) + 1,
            )
            cache = out.past_key_values
            scores, chosen = _best(out.logits[0])
            kept = 0
            for token, score in zip(chosen.tolist(), scores.tolist(), strict=True):
                self._extend(answer, token, score)
                if answer.ended or kept == len(draft) or token != draft[kept]:
                    break
                kept += 1
            if kept < len(draft):
                cache.crop(kept - len(draft))
            pending = answer.tokens[-1:]
        if self._drafts:
            self._drafts.learn(answer.tokens)
        return answer

    def _extend(self, answer: _Answer, token: int, score: float) -> None:
        answer.tokens.append(token)
        answer.log_probability += score
        answer.ended = token in self._ends


def _best(logits: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Log-probability and number of the likeliest token of each row."""
    best = logits.float().log_softmax(-1).max(-1)
    return best.values, best.indices


def _merge(model: "PreTrainedModel", adapter: Path) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    remedy = "use the adapter with the base it was trained on"
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ArtifactError(f"no adapter weights in {adapter.name!r}", remedy=remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers' own renamings
            return PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            f"adapter {adapter.name!r} does not fit the base", remedy=remedy
        ) from error


def _rewinds(model: "PreTrainedModel") -> bool:
    """Whether the model's cache can be cut back: full attention in every layer."""
    layers = getattr(model.config, "layer_types", None)
    if layers:
        return all(layer == "full_attention" for layer in layers)
    return getattr(model.config, "sliding_window", None) is None


def _end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(e for e in (*ends, tokenizer.eos_token_id) if e is not None)
