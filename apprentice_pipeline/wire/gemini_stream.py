"""Gemini's answers: candidates, their usage, and the two ways they are streamed.

Belongs here: `GenerateContentResponse`s, whole or one after another, as server-sent events or
as a JSON array. Does not: requests, errors, writing (`gemini`), parts (`gemini_parts`).
An unstreamed answer is read as a stream of one, so that both readings are the same code.
Citations, grounding, safety ratings and log-probabilities are not part of an output.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.forms import (
    WireResponse,
    as_list,
    as_object,
    as_text,
    count,
    json_object,
    reads,
)
from apprentice_pipeline.wire.gemini_parts import Parts
from apprentice_pipeline.wire.json_array import ObjectParser
from apprentice_pipeline.wire.outputs import choices_form, gravest, normal_form
from apprentice_pipeline.wire.sse import Event, EventParser

STOP: Final = "STOP"
_MARKS: Final = (b'"finishReason"', b'"blockReason"')
_UNSAID: Final = frozenset({"", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED"})


class _Candidate:
    """One answer, piece by piece."""

    __slots__ = ("_parts", "finish_reason")

    def __init__(self) -> None:
        self._parts = Parts()
        self.finish_reason: str | None = None

    def add(self, said: dict[str, Any]) -> None:
        """Takes in what one response says of the candidate."""
        content = as_object(said.get("content"))
        for part in as_list(content.get("parts")):
            self._parts.add(part)
        self.finish_reason = _reason(said.get("finishReason")) or self.finish_reason

    def output(self) -> Any:
        """The normal form of what has come; None for nothing that did not end by itself."""
        blocks, calls = self._parts.blocks(), self._parts.calls
        if not blocks and not calls and self.finish_reason not in {None, STOP}:
            return None
        return normal_form(blocks, calls)


class ContentAssembly:
    """A `streams.Assembly` of responses, up to where every candidate has finished."""

    __slots__ = ("_blocked", "_candidates", "_model", "_usage")

    def __init__(self) -> None:
        self._candidates: dict[int, _Candidate] = {}
        self._blocked: str | None = None
        self._model = ""
        self._usage: dict[str, Any] = {}

    def is_terminal(self, event: Event) -> bool:
        """Whether the end begins here: a candidate finishes, or the prompt is blocked."""
        if not any(mark in event.data for mark in _MARKS):
            return False
        try:
            return _ends(as_object(orjson.loads(event.data)))
        except orjson.JSONDecodeError:
            return True  # it has not come whole

    def add(self, event: Event) -> None:
        """See `Assembly`."""
        self.take(json_object(event.data))

    def take(self, document: dict[str, Any]) -> None:
        """One response. Raises: WireError and its like."""
        if document.get("error"):
            raise WireError("the provider reported an error in its answer")
        self._model = as_text(document.get("modelVersion")) or self._model
        self._usage |= as_object(document.get("usageMetadata"))
        feedback = as_object(document.get("promptFeedback"))
        self._blocked = _reason(feedback.get("blockReason")) or self._blocked
        for said in as_list(document.get("candidates")):
            index = count(said.get("index")) or 0
            self._candidates.setdefault(index, _Candidate()).add(as_object(said))

    def whole(self) -> bool:
        """See `Assembly`."""
        finished = [each.finish_reason is not None for each in self._candidates.values()]
        return all(finished) if finished else self._blocked is not None

    def response(self) -> WireResponse | None:
        """See `Assembly`."""
        usage = read_usage(self._usage)
        if not self._candidates:
            if self._blocked is None:
                return None
            return WireResponse(None, usage, self._model, self._blocked)
        candidates = [self._candidates[index] for index in sorted(self._candidates)]
        outputs = [candidate.output() for candidate in candidates]
        reason = gravest(candidate.finish_reason for candidate in candidates)
        return WireResponse(choices_form(outputs), usage, self._model, reason)


def _ends(document: dict[str, Any]) -> bool:
    if _reason(as_object(document.get("promptFeedback")).get("blockReason")):
        return True
    said = as_list(document.get("candidates"))
    return any(_reason(as_object(candidate).get("finishReason")) for candidate in said)


def _reason(value: Any) -> str | None:
    said = as_text(value)
    return None if said in _UNSAID else said


@reads
def read_documents(documents: list[Any]) -> WireResponse:
    """A whole answer: one response, or all of a stream's. Raises: WireError."""
    assembly = ContentAssembly()
    for document in documents:
        assembly.take(as_object(document))
    response = assembly.response()
    if response is None:
        raise WireError("the answer holds no candidate")
    return response


def read_usage(said: dict[str, Any]) -> Usage:
    """Usage of an answer. Google's prompt count holds cached tokens already; thoughts are paid
    for as output; a count of zero is left out of its JSON.
    """
    prompt = count(said.get("promptTokenCount"))
    made, thought = count(said.get("candidatesTokenCount")), count(said.get("thoughtsTokenCount"))
    if prompt is None and made is None:
        return Usage()
    return Usage(
        input_tokens=(prompt or 0) + (count(said.get("toolUsePromptTokenCount")) or 0),
        output_tokens=(made or 0) + (thought or 0),
        cached_tokens=count(said.get("cachedContentTokenCount")) or 0,
        source="provider",
    )


class AnswerParser:
    """A `streams.Parser` of either kind of stream: the first byte that is no blank tells which."""

    __slots__ = ("_chosen", "_events")

    def __init__(self) -> None:
        self._events = EventParser()
        """It sees the blanks too: before a line's first word they are part of it."""
        self._chosen: EventParser | ObjectParser | None = None

    @property
    def open_event(self) -> Event | None:
        """See `Parser`."""
        return self._chosen.open_event if self._chosen is not None else None

    def feed(self, chunk: bytes) -> list[Event]:
        """See `Parser`."""
        if self._chosen is None:
            first = chunk.lstrip()[:1]
            if not first:
                return self._events.feed(chunk)
            self._chosen = ObjectParser() if first in b"[{" else self._events
        return self._chosen.feed(chunk)

    def close(self) -> list[Event]:
        """See `Parser`."""
        return self._chosen.close() if self._chosen is not None else []
