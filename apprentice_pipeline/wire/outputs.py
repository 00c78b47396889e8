"""The normal form of an output, and how an answer ended.

Both are equal for a streamed and an unstreamed call. A plain text answer is a `str`.
Everything else is `{"content": [...], "tool_calls": [...]}`:

- content blocks: `{"type": "text", "text"}` (with `citations` where there are any),
  `{"type": "refusal", "refusal"}`, `{"type": "thinking", "thinking", "signature"}`,
  `{"type": "reasoning", ...}`, and whatever else a provider sends, as it came;
- tool calls: `{"id", "type": "function", "function": {"name", "arguments"}}`, the arguments
  as JSON text, whoever the provider is;
- several answers to one request (`n > 1`): one block `{"type": "choice", "index", "output"}`
  for each, its `output` again in normal form.

An answer is whole unless its provider says that a limit, a filter or a pause cut it, or the
model refused; a reason that is not known, or absent, is no such word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from apprentice_pipeline.records import CUT, REFUSED, WHOLE

if TYPE_CHECKING:
    from apprentice_pipeline.wire.forms import WireResponse

THOUGHT_TYPES = frozenset({"thinking", "redacted_thinking", "reasoning"})

_ENDINGS: Final = {
    # OpenAI: chat completions, responses
    "length": CUT,
    "content_filter": CUT,
    "max_output_tokens": CUT,
    "incomplete": CUT,
    "error": CUT,
    # Anthropic
    "max_tokens": CUT,
    "model_context_window_exceeded": CUT,
    "pause_turn": CUT,
    "refusal": REFUSED,
    # Gemini
    "malformed_function_call": CUT,
    "malformed_response": CUT,
    "missing_thought_signature": CUT,
    "too_many_tool_calls": CUT,
    "unexpected_tool_call": CUT,
    "other": CUT,
    "recitation": CUT,
    "language": REFUSED,
    "safety": REFUSED,
    "blocklist": REFUSED,
    "prohibited_content": REFUSED,
    "spii": REFUSED,
    "image_safety": REFUSED,
    "image_prohibited_content": REFUSED,
    "jailbreak": REFUSED,
    "model_armor": REFUSED,
    "pup_limited_disabled": REFUSED,
    "continuation": CUT,
    "escalation": CUT,
    "image_other": CUT,
    "image_recitation": CUT,
    "no_image": CUT,
}
_GRAVITY: Final = (REFUSED, CUT)


def ending_of(response: WireResponse) -> str:
    """How an answer ended: `whole`, `cut` or `refused` (`records.Exchange.ending`).

    One choice of several that is not whole is enough.
    """
    output = response.output
    if not isinstance(output, str) and any(
        refusal_of(choice) is not None for choice in choices_of(output)
    ):
        return REFUSED
    return _ENDINGS.get((response.finish_reason or "").lower(), WHOLE)


def gravest(reasons: Iterable[str | None]) -> str | None:
    """Of the finish reasons of several choices the one that `ending_of` has to know."""
    said = list(reasons)
    for ending in _GRAVITY:
        for reason in said:
            if _ENDINGS.get((reason or "").lower()) == ending:
                return reason
    return said[0] if said else None


def normal_form(blocks: list[dict[str, Any]], calls: list[dict[str, Any]]) -> Any:
    """Text alone where it is text alone, else blocks and calls."""
    if not calls and not blocks:
        return ""
    if not calls and len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return blocks[0]["text"]
    return {"content": blocks, "tool_calls": calls}


def choices_form(outputs: list[Any]) -> Any:
    """One output as it is; several as a block each."""
    if len(outputs) == 1:
        return outputs[0]
    blocks = [
        {"type": "choice", "index": index, "output": output} for index, output in enumerate(outputs)
    ]
    return {"content": blocks, "tool_calls": []}


def choices_of(output: Any) -> list[Any]:
    """The outputs that `choices_form` was given."""
    blocks = blocks_of(output)
    if blocks and all(block.get("type") == "choice" for block in blocks):
        return [block.get("output") for block in blocks]
    return [output]


def function_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call in normal form."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def blocks_of(output: Any) -> list[dict[str, Any]]:
    """The content blocks of an output in normal form; text is one block, "" is none."""
    if isinstance(output, str):
        return [{"type": "text", "text": output}] if output else []
    content = output.get("content") if isinstance(output, dict) else None
    return [block for block in content or () if isinstance(block, dict)]


def calls_of(output: Any) -> list[dict[str, Any]]:
    """The tool calls of an output in normal form."""
    calls = output.get("tool_calls") if isinstance(output, dict) else None
    return [call for call in calls or () if isinstance(call, dict)]


def text_of(output: Any) -> str:
    """All text of an output, its text blocks joined; "" where it has none."""
    if isinstance(output, str):
        return output
    return "".join(str(b.get("text", "")) for b in blocks_of(output) if b.get("type") == "text")


def refusal_of(output: Any) -> str | None:
    """The text of a refusal, None where the model did not refuse."""
    refusals = [b.get("refusal", "") for b in blocks_of(output) if b.get("type") == "refusal"]
    return "".join(map(str, refusals)) if refusals else None


def pieces(text: str, size: int = 48) -> list[str]:
    """`text` cut for a stream's deltas; none for ""."""
    return [text[start : start + size] for start in range(0, len(text), size)]
