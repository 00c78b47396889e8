"""The training loop: one model, one stream of batches, one schedule. No data, no files.

Matrices inside the layers are trained with Muon (Jordan et al. 2024), embeddings and norms
with AdamW. Beside the next-token loss, the state at the last prompt token, one layer below the
top, is asked which words the request held; the layers above then find the whole request in one
place when a label is due.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apprentice_pipeline.demo.pretraining.batches import Batch

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

_ROUND = 128  # few distinct matrix sizes: the CPU kernels are compiled for each


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of the model; `vocabulary` counts the control tokens."""

    vocabulary: int = 5120
    width: int = 256
    inner: int = 704
    layers: int = 4
    heads: int = 8
    context_tokens: int = 2048


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, batch and rates. Each cycle warms up, then cools down to zero; later cycles start
    at `restart` times the rates, from the weights of the one before in half precision."""

    cycles: tuple[int, ...]
    restart: float = 0.6
    batch_size: int = 96
    max_tokens: int = 160
    matrix_rate: float = 4e-3
    vector_rate: float = 4e-3
    weight_decay: float = 0.05
    warm_up_steps: int = 60
    reading_weight: float = 0.3
    half_precision: bool = True


def new_model(shape: Shape, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "LlamaForCausalLM":
    """A freshly initialised Llama; the seed decides the weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context_tokens,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def train(
    model: "LlamaForCausalLM",
    stream: Iterator[Batch],
    schedule: Schedule,
    seed: int,
    report: Callable[[int, float, float], None],
) -> None:
    """Trains in place, cycle after cycle on one stream; `report` receives the step within the
    cycle, the next-token loss and the seconds since the cycle began."""
    for cycle in range(len(schedule.cycles)):
        train_cycle(model, stream, schedule, cycle, seed, report)


def train_cycle(
    model: "LlamaForCausalLM",
    stream: Iterator[Batch],
    schedule: Schedule,
    cycle: int,
    seed: int,
    report: Callable[[int, float, float], None],
) -> None:
    """One cycle, in place, ending with the weights rounded to half precision."""
    import torch

    torch.manual_seed(seed + 1)
    reader = torch.nn.Linear(model.config.hidden_size, model.config.hidden_size, bias=False)
    optimisers = _optimisers(model, reader, schedule)
    initial = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    started = time.monotonic()
    model.train()
    steps, peak = schedule.cycles[cycle], schedule.restart if cycle else 1.0
    for step in range(steps):
        factor = peak * _factor(step, steps, schedule.warm_up_steps)
        for optimiser, rates in zip(optimisers, initial, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss, reading = _losses(model, reader, next(stream), schedule.half_precision)
        torch.autograd.backward(loss + schedule.reading_weight * reading)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            report(step, float(loss.detach()), time.monotonic() - started)
    model.half().float()
    model.eval()


def _optimisers(
    model: "LlamaForCausalLM", reader: "torch.nn.Module", schedule: Schedule
) -> list["torch.optim.Optimizer"]:
    import torch

    layers = list(model.model.layers.parameters())
    matrices = [p for p in layers if p.ndim == 2] + list(reader.parameters())
    vectors = [p for p in model.parameters() if all(p is not m for m in matrices)]
    muon = torch.optim.Muon(
        matrices,
        lr=schedule.matrix_rate,
        weight_decay=schedule.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.AdamW(vectors, lr=schedule.vector_rate, betas=(0.9, 0.97), weight_decay=0.0)
    return [muon, adam]


def _factor(step: int, steps: int, warm_up_steps: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    done = (step - warm_up_steps) / max(1, steps - warm_up_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _losses(
    model: "LlamaForCausalLM", reader: "torch.nn.Module", batch: Batch, half_precision: bool
) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    rows, columns = batch.learnt[:, 1:].nonzero(as_tuple=True)
    count = len(rows) // _ROUND * _ROUND or len(rows)
    rows, columns = rows[:count], columns[:count]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half_precision):
        out = model.model(batch.tokens, use_cache=False, output_hidden_states=True)
        logits = model.lm_head(out.last_hidden_state[rows, columns])
        at = out.hidden_states[-2][batch.read_at[:, 0], batch.read_at[:, 1]]
        words = model.lm_head(model.model.norm(reader(at)))
    loss = torch.nn.functional.cross_entropy(logits.float(), batch.tokens[rows, columns + 1])
    reading = -(batch.read * torch.log_softmax(words.float(), dim=-1)).sum(-1).mean()
    return loss, reading
