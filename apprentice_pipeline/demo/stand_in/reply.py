"""The stand-in's answer before it takes a provider's shape.

Holds texts and figures only. Promises: token figures follow from the texts alone, and a text cut
by the caller's limit says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apprentice_pipeline.demo.stand_in.answers import TEXT_ALONE, Parts, estimate_tokens
from apprentice_pipeline.demo.stand_in.request import Call


@dataclass(frozen=True, slots=True)
class Reply:
    """`texts` holds one answer a choice; `cut[i]` is true where the limit shortened it.

    `parts` is what comes beside the text, but for what the request gave no room for.
    """

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
    parts: Parts = TEXT_ALONE

    @property
    def thinking(self) -> str:
        """What the model thought before it answered."""
        return self.parts.thinking

    @property
    def refusal(self) -> str:
        """The words in which the model refuses, "" where it does not."""
        return self.parts.refusal

    def said(self, index: int = 0) -> str:
        """The text of a choice beside its tool calls and instead of which it may refuse."""
        return "" if self.tool or self.refusal else self.texts[index]

    def calls(self, index: int = 0) -> tuple[tuple[str, str], ...]:
        """The tool calls of a choice: names, and arguments as JSON text."""
        if self.tool:
            return ((self.tool, self.texts[index]),)
        return self.parts.calls


def build_reply(
    call: Call,
    texts: list[str],
    *,
    cached: int,
    written: int,
    number: str,
    now_s: int,
    parts: Parts = TEXT_ALONE,
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
        parts=_allowed(call, parts),
    )


def pieces(text: str, chunk_chars: int) -> list[str]:
    """`text` in the pieces that a stream sends; an empty text is one empty piece."""
    return [text[i : i + chunk_chars] for i in range(0, len(text), chunk_chars)] or [""]


def _allowed(call: Call, parts: Parts) -> Parts:
    """A model thinks where it is told to, and calls the tools it is given."""
    return replace(
        parts,
        thinking=parts.thinking if call.thinks else "",
        calls=parts.calls if call.offers_tools else (),
    )


def _limit(text: str, max_tokens: int | None) -> tuple[str, bool]:
    if max_tokens is None or estimate_tokens(text) <= max_tokens:
        return text, False
    kept = text.encode("utf-8", "surrogatepass")[: 4 * max_tokens]
    return kept.decode("utf-8", "ignore"), True
