"""The sources by name: how each is read, and what each expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.wire.imports import (
    helicone,
    langfuse,
    litellm,
    mlflow_traces,
    openai_logs,
    plain,
)
from apprentice_pipeline.wire.imports.calls import PastCall

Reader = Callable[[dict[str, Any]], list[PastCall]]

_READERS: Final[dict[str, Reader]] = {
    "openai": openai_logs.read,
    "litellm": litellm.read,
    "langfuse": langfuse.read,
    "helicone": helicone.read,
    "mlflow": mlflow_traces.read,
    "jsonl": plain.read,
}
SOURCES: Final = tuple(_READERS)
_EXPECTED: Final = {
    "jsonl": 'a record is {"input": {"messages": […]}, "output": …}, {"messages": […]} ending in '
    'the answer, or {"prompt", "completion"}',
    "openai": 'a record is {"request": {…}, "response": {…}}, a stored completion with its '
    'messages, or {"messages": […, {"role": "assistant", "content": …}]}; a batch\'s output '
    "needs its input file (--requests)",
    "litellm": "a record is a standard logging payload or a row of the spend log",
    "langfuse": "a record is an observation, or a trace with its observations",
    "helicone": "a record is a request with its bodies (export with --include-body)",
    "mlflow": "a record is a trace as Trace.to_json writes it",
}


def reader(source: str) -> Reader:
    """The reader of a source. Raises: UsageError for a name that has none."""
    try:
        return _READERS[source]
    except KeyError:
        raise UsageError("no such source", remedy=f"choose one of {', '.join(SOURCES)}") from None


def expected(source: str) -> str:
    """What a record of the source looks like, for a remedy."""
    return _EXPECTED[source]
