"""Helicone: requests of its API, its dashboard and `@helicone/export`, JSON, JSON lines or CSV.

A row holds the two bodies as they went over the wire, so they are read as the provider's own.
Without `--include-body` (or with only the signed URL to the bodies) there is nothing to learn
from, and the row is no pair; neither is one that failed. Costs are in dollars.
"""

from __future__ import annotations

from typing import Any, Final

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.forms import as_object, reads
from apprentice_pipeline.wire.imports.calls import PastCall, provider_name
from apprentice_pipeline.wire.imports.conversations import body_endpoint
from apprentice_pipeline.wire.imports.openai_logs import of_bodies
from apprentice_pipeline.wire.imports.values import (
    first_of,
    json_value,
    moment_us,
    real,
    seconds_us,
    text_or_empty,
    tokens,
)

_ROW: Final = {"request_id", "request_created_at", "response_id", "response_status"}


@reads
def read(record: dict[str, Any]) -> list[PastCall]:
    """The call of a row. Raises: WireError."""
    if not _ROW & record.keys():
        raise WireError("not a row of Helicone's")
    status = tokens(record.get("response_status"))
    request = json_value(first_of(record, "request_body"))
    response = json_value(first_of(record, "response_body"))
    if status is not None and not 200 <= status < 300:
        return []
    if not isinstance(request, dict) or not isinstance(response, dict):
        return []
    if body_endpoint(response) is None and not ({"messages", "input"} & request.keys()):
        return []  # an embedding, an image, a file
    model = text_or_empty(first_of(record, "response_model", "model", "request_model"))
    named = record.get("provider")
    first_token_ms = real(record.get("time_to_first_token"))
    return of_bodies(
        request,
        response,
        created_at_us=moment_us(record.get("request_created_at")),
        latency_us=_latency_us(record),
        first_byte_us=seconds_us(first_token_ms / 1_000) if first_token_ms else None,
        usage=_usage(record),
        cost_usd=real(first_of(record, "costUSD", "cost_usd", "cost")),
        provider=provider_name(named, model) if named and named != "CUSTOM" else None,
        record_id=text_or_empty(first_of(record, "request_id", "response_id")) or None,
    )


def _latency_us(record: dict[str, Any]) -> int | None:
    milliseconds = real(first_of(record, "delay_ms", "latency"))
    return None if milliseconds is None else seconds_us(milliseconds / 1_000)


def _usage(record: dict[str, Any]) -> Usage | None:
    """Helicone's counts, where the response body carries none of its own."""
    if as_object(json_value(record.get("response_body"))).get("usage"):
        return None
    made = tokens(record.get("prompt_tokens")), tokens(record.get("completion_tokens"))
    return None if made == (None, None) else Usage(made[0], made[1], None, None, "provider")
