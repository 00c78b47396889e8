"""The stand-in's answer before it takes a provider's shape.

Holds texts and figures only. Promises: token figures follow from the texts alone, and a text cut
by the caller's limit says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from apprentice_pipeline.demo.stand_in.answers import estimate_tokens
from apprentice_pipeline.demo.stand_in.request import Call


@dataclass(frozen=True, slots=True)
class Reply:
    """`texts` holds one answer a choice; `cut[i]` is true where the limit shortened it."""

    id: str
    created_s: int
    model: str
    texts: tuple[str, ...]
    cut: tuple[bool, ...]
    tool: str | None
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    logprobs: bool
    include_usage: bool


def build_reply(
    call: Call, texts: list[str], *, cached: int, written: int, number: str, now_s: int
) -> Reply:
    """Applies the token limit and adds up the figures; `number` makes the ids."""
    limited = [_limit(text, call.max_tokens) for text in texts]
    return Reply(
        id=number,
        created_s=now_s,
        model=call.model,
        texts=tuple(text for text, _ in limited),
        cut=tuple(cut for _, cut in limited),
        tool=call.tool,
        input_tokens=call.input_tokens,
        cached_tokens=cached,
        written_tokens=written,
        output_tokens=sum(max(1, estimate_tokens(text)) for text, _ in limited),
        logprobs=call.logprobs,
        include_usage=call.include_usage,
    )


def pieces(text: str, chunk_chars: int) -> list[str]:
    """`text` in the pieces that a stream sends; an empty text is one empty piece."""
    return [text[i : i + chunk_chars] for i in range(0, len(text), chunk_chars)] or [""]


def _limit(text: str, max_tokens: int | None) -> tuple[str, bool]:
    if max_tokens is None or estimate_tokens(text) <= max_tokens:
        return text, False
    kept = text.encode("utf-8", "surrogatepass")[: 4 * max_tokens]
    return kept.decode("utf-8", "ignore"), True
