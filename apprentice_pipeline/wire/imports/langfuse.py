"""Langfuse: observations, from the API, the UI's export or the blob storage, JSON or CSV.

Names come in camel case (API, UI) and in snake case (blob storage); nested values come as objects
or, in CSV, as JSON text. Only generations called a model; observations of another type and those
at level ERROR are no pairs. A trace that carries its observations is read through to them.
"""

from __future__ import annotations

from typing import Any, Final

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.forms import as_list, as_object, reads
from apprentice_pipeline.wire.imports.calls import (
    PastCall,
    bare_model,
    endpoint_name,
    is_fit,
    provider_name,
)
from apprentice_pipeline.wire.imports.conversations import loose_answer, loose_input
from apprentice_pipeline.wire.imports.values import (
    between_us,
    first_of,
    json_value,
    moment_us,
    real,
    seconds_us,
    text_or_empty,
    tokens,
)

_GENERATION: Final = "GENERATION"


@reads
def read(record: dict[str, Any]) -> list[PastCall]:
    """The calls of an observation, or of a trace's observations. Raises: WireError."""
    nested = json_value(record.get("observations"))
    if isinstance(nested, list):
        return [call for item in nested if isinstance(item, dict) for call in read(item)]
    kind = record.get("type")
    if not isinstance(kind, str) and "id" not in record:
        raise WireError("not an observation")
    if kind is not None and kind != _GENERATION:
        return []
    if text_or_empty(record.get("level")).upper() == "ERROR":
        return []
    asked = json_value(first_of(record, "input"))
    said = json_value(first_of(record, "output"))
    if asked is None or said is None:
        return []
    answer = loose_answer(said)
    if not is_fit(answer):
        return []
    return [_call(record, loose_input(asked, _parameters(record)), answer)]


def _call(record: dict[str, Any], given: dict[str, Any], answer: Any) -> PastCall:
    named = first_of(record, "model", "providedModelName", "provided_model_name")
    model = text_or_empty(named) or answer.model
    provider = provider_name(None, model)
    started = moment_us(first_of(record, "startTime", "start_time"))
    ended = moment_us(first_of(record, "endTime", "end_time"))
    first = moment_us(first_of(record, "completionStartTime", "completion_start_time"))
    return PastCall(
        input=given,
        output=answer.output,
        provider=provider,
        endpoint=endpoint_name(provider),
        model=bare_model(model, provider),
        created_at_us=started,
        latency_us=between_us(started, ended) or seconds_us(record.get("latency")),
        first_byte_us=between_us(started, first) or None,
        usage=_usage(record, answer.usage),
        cost_usd=_cost(record),
        streamed=first is not None,
        record_id=text_or_empty(record.get("id")),
    )


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    """Model parameters; LangChain's integration writes null for what was not set."""
    found = as_object(json_value(first_of(record, "modelParameters", "model_parameters")))
    kept = {name: value for name, value in found.items() if value is not None}
    tools = json_value(first_of(record, "tools", "tool_definitions", "toolDefinitions"))
    return {**kept, "tools": tools} if isinstance(tools, list) and tools else kept


def _usage(record: dict[str, Any], said: Usage) -> Usage:
    details = as_object(json_value(first_of(record, "usageDetails", "usage_details")))
    plain = as_object(json_value(record.get("usage")))
    sent = [details.get("input"), plain.get("input"), plain.get("promptTokens"),
            record.get("inputTokens"), record.get("promptTokens")]  # fmt: skip
    made = [details.get("output"), plain.get("output"), plain.get("completionTokens"),
            record.get("outputTokens"), record.get("completionTokens")]  # fmt: skip
    read_sent, read_made = _first_count(sent), _first_count(made)
    if read_sent is None and read_made is None:
        return said
    cached = tokens(
        first_of(details, "input_cached_tokens", "cache_read_input_tokens", "input_cache_read")
    )
    written = tokens(first_of(details, "cache_creation_input_tokens", "input_cache_creation"))
    whole = None if read_sent is None else read_sent + (cached or 0) + (written or 0)
    return Usage(whole, read_made, cached, written, "provider")


def _first_count(values: list[Any]) -> int | None:
    return next((found for value in as_list(values) if (found := tokens(value)) is not None), None)


def _cost(record: dict[str, Any]) -> float | None:
    said = real(first_of(record, "totalCost", "total_cost", "calculatedTotalCost"))
    if said is not None:
        return said
    details = as_object(json_value(first_of(record, "costDetails", "cost_details")))
    if (total := real(details.get("total"))) is not None:
        return total
    parts = [cost for value in details.values() if (cost := real(value)) is not None]
    return sum(parts) if parts else None
