"""The values that wire formats are read into, and the reading of JSON that may be anything.

Belongs here: `WireRequest`, `WireResponse`, the interface of a provider module, checked JSON
access. Does not: the format of any one provider.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Message, Usage

if TYPE_CHECKING:
    from apprentice_pipeline.wire.streams import Follower, StreamReader

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
"""What reading a JSON value of an unexpected shape raises."""

P = ParamSpec("P")
T = TypeVar("T")


class WireRequest(NamedTuple):
    """One request as its provider's format says it.

    `input` is `{"messages": [...], "parameters": {...}}`: messages as they were sent, with the
    provider's system prompt (Anthropic `system`, Responses `instructions`) as a first message
    of role `system`; parameters are all others but the model and the transport (`stream`,
    `stream_options`), so that a streamed and an unstreamed request have equal inputs.
    `as_array`: the stream is asked for as a JSON array, not as server-sent events.
    """

    model: str
    streamed: bool
    input: dict[str, Any]
    max_output_tokens: int | None
    include_usage: bool = False
    as_array: bool = False


class WireResponse(NamedTuple):
    """One answer. `output` is the normal form (see `outputs`), None where none was given.

    `usage.input_tokens` is the whole prompt, cached tokens included, for every provider;
    `usage.cached_tokens` is the part read from a cache, `cache_write_tokens` the part written.
    `finish_reason` is the provider's own word, of several choices the gravest
    (`outputs.ending_of` reads it).
    """

    output: Any
    usage: Usage
    model: str
    finish_reason: str | None


class WireFormat(Protocol):
    """What a provider module offers (`openai`, `anthropic`, `gemini`)."""

    def endpoint_of(self, path: str) -> str | None:
        """The endpoint of a path below the provider prefix, None where it is not captured."""
        ...

    def upstream_path(self, path: str) -> str:
        """The path to ask of the provider for a path below the provider prefix.

        Raises: WireError for a bare path where that says too little.
        """
        ...

    def call_path(self, model: str) -> str:
        """The path of a call of our own, unstreamed."""
        ...

    def unstreamed(self, target: str, body: bytes) -> tuple[str, bytes]:
        """The same request, its answer asked for in one piece. Raises: WireError."""
        ...

    def read_request(self, endpoint: str, body: bytes, target: str = "") -> WireRequest:
        """`target` is the upstream path with its query, for a provider that puts the model and
        the way to stream there. Raises: WireError.
        """
        ...

    def read_response(self, endpoint: str, body: bytes) -> WireResponse:
        """Raises: WireError."""
        ...

    def stream_reader(self, endpoint: str) -> StreamReader:
        """A reader of one streamed answer."""
        ...

    def end_finder(self, endpoint: str) -> Follower:
        """What finds the end of one streamed answer, as cheaply as can be."""
        ...

    def write_response(
        self,
        endpoint: str,
        request: WireRequest,
        answer: Answer,
        *,
        response_id: str,
        created_s: int,
    ) -> bytes:
        """The unstreamed body that carries `answer`."""
        ...

    def write_stream(
        self,
        endpoint: str,
        request: WireRequest,
        answer: Answer,
        *,
        response_id: str,
        created_s: int,
    ) -> Iterator[bytes]:
        """The server-sent events that carry `answer`."""
        ...

    def write_error(self, status: int, message: str) -> bytes:
        """An error body in the provider's own shape."""
        ...

    def write_request(
        self,
        model: str,
        messages: Sequence[Message],
        parameters: dict[str, Any],
        *,
        streamed: bool = False,
    ) -> bytes:
        """The body of a call of our own."""
        ...


def reads(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a reader: whatever an unexpected shape raises becomes a WireError."""

    @functools.wraps(function)
    def read(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except MALFORMED as error:
            raise WireError(f"not the provider's format ({type(error).__name__})") from None

    return read


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises: WireError."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise WireError("the body is not JSON") from None
    if not isinstance(document, dict):
        raise WireError("the body is not a JSON object")
    return document


def as_text(value: Any) -> str:
    """`value` where it is text, "" where it is null. Raises: TypeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def as_list(value: Any) -> list[Any]:
    """`value` where it is a list, [] where it is null. Raises: TypeError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError("list expected")
    return value


def as_object(value: Any) -> dict[str, Any]:
    """`value` where it is an object, {} where it is null. Raises: TypeError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError("object expected")
    return value


def count(value: Any) -> int | None:
    """A non-negative whole number, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62:
        return value
    return None


_USUAL_TIERS = frozenset({"", "auto", "default", "standard"})


def in_tier(usage: Usage, tier: Any) -> Usage:
    """`usage` with the service tier that an answer names, unless it is the usual one."""
    usual = not isinstance(tier, str) or tier in _USUAL_TIERS
    return usage if usual else usage._replace(service_tier=tier)


def unstreamed_body(body: bytes) -> bytes:
    """A request without `stream` and `stream_options`. Raises: WireError."""
    return orjson.dumps(without(json_object(body), "stream", "stream_options"))


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """`document` but for the keys named."""
    return {key: value for key, value in document.items() if key not in names}
