"""Training rows and their tokens: what the model reads and which part of it is learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.errors import BaseModelMissing, DistillError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One captured pair: the conversation, the teacher's answer, and its draw weight (> 0)."""

    messages: tuple[dict[str, Any], ...]
    completion: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """`tokens` of prompt and completion; the first `prompt_length` of them are not learnt."""

    tokens: tuple[int, ...]
    prompt_length: int
    weight: float


def encode_rows(
    rows: Sequence[TrainingRow], tokenizer: "PreTrainedTokenizerBase"
) -> list[EncodedRow]:
    """Renders rows with the base's chat template.

    The completion starts where the tokens of prompt and of prompt with answer part.
    Raises: BaseModelMissing when the template cannot render a conversation; DistillError for a
    weight that is not positive.
    """
    prompts = render([row.messages for row in rows], tokenizer, open_answer=True)
    whole = render(
        [(*row.messages, {"role": "assistant", "content": row.completion}) for row in rows],
        tokenizer,
        open_answer=False,
    )
    prompt_ids = tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
    whole_ids = tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]
    encoded = []
    for row, prompt, tokens in zip(rows, prompt_ids, whole_ids, strict=True):
        if not row.weight > 0:
            raise DistillError(
                f"a row has weight {row.weight}", remedy="give every row a weight above zero"
            )
        encoded.append(EncodedRow(tuple(tokens), _shared(prompt, tokens), row.weight))
    return encoded


def render(
    conversations: Sequence[Sequence[dict[str, Any]]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    open_answer: bool,
) -> list[str]:
    """Conversations as text, in the template's own (sandboxed) rendering.

    Content may be a string or a list of text blocks; blocks are joined by newlines.
    """
    import jinja2

    try:
        return [
            str(
                tokenizer.apply_chat_template(
                    [{**m, "content": content_text(m["content"])} for m in conversation],
                    tokenize=False,
                    add_generation_prompt=open_answer,
                )
            )
            for conversation in conversations
        ]
    except (jinja2.TemplateError, ValueError) as error:
        raise BaseModelMissing(
            "the base's chat template cannot render these conversations",
            remedy="choose an instruct model whose chat template knows these roles",
        ) from error


def content_text(content: object) -> str:
    """A message's content as text. Raises: DistillError for content that is not text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        texts = [block.get("text") if isinstance(block, dict) else block for block in content]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(str(text) for text in texts)
    raise DistillError(
        "a message has content other than text",
        remedy="leave conversations with images, tools or files out of the corpus",
    )


def _shared(prompt: Sequence[int], whole: Sequence[int]) -> int:
    length = 0
    for a, b in zip(prompt, whole, strict=False):
        if a != b:
            break
        length += 1
    return length
