"""LiteLLM: the standard logging payload, and rows of the spend log.

The payload says `startTime` in epoch seconds and `response_cost`, the spend log a text time and
`spend`. A spend log keeps prompts only with `store_prompts_in_spend_logs`, and shortens long ones:
a shortened, redacted or absent prompt is no pair. Calls that are not chats are none either.
"""

from __future__ import annotations

from typing import Any, Final

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.forms import as_object, reads
from apprentice_pipeline.wire.imports.calls import (
    CHAT,
    PastCall,
    bare_model,
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
    text_or_empty,
    tokens,
)

_CHATS: Final = (
    "completion", "acompletion", "text_completion", "atext_completion", "responses", "aresponses",
    "anthropic_messages", "generate_content", "agenerate_content", "pass_through_endpoint",
)  # fmt: skip
_CUT: Final = ("litellm_truncated", "redacted-by-litellm")


@reads
def read(record: dict[str, Any]) -> list[PastCall]:
    """The call of a payload or a spend row. Raises: WireError."""
    payload = as_object(json_value(record.get("standard_logging_object"))) or record
    if not {"call_type", "spend"} & payload.keys():
        raise WireError("neither a standard logging payload nor a spend log row")
    kind = text_or_empty(payload.get("call_type"))
    if _failed(payload) or (kind and kind not in _CHATS):
        return []
    request = as_object(json_value(payload.get("proxy_server_request")))
    asked = json_value(first_of(payload, "messages")) or _request_messages(request)
    said = json_value(first_of(payload, "response"))
    if asked is None or said is None or _is_cut(asked) or _is_cut(said):
        return []
    answer = loose_answer(said)
    if not is_fit(answer):
        return []
    return [_call(payload, loose_input(asked, _parameters(payload, request)), answer)]


def _call(payload: dict[str, Any], given: dict[str, Any], answer: Any) -> PastCall:
    model = text_or_empty(payload.get("model")) or answer.model
    provider = provider_name(payload.get("custom_llm_provider"), model)
    started, ended = moment_us(payload.get("startTime")), moment_us(payload.get("endTime"))
    first = moment_us(payload.get("completionStartTime"))
    streamed = payload.get("stream") is True
    return PastCall(
        input=given,
        output=answer.output,
        provider=provider,
        endpoint=CHAT,
        model=bare_model(model, provider),
        created_at_us=started,
        latency_us=between_us(started, ended),
        first_byte_us=between_us(started, first) or None if streamed else None,
        usage=_usage(payload, answer.usage),
        cost_usd=real(first_of(payload, "response_cost", "spend")),
        streamed=streamed,
        record_id=text_or_empty(first_of(payload, "id", "request_id")),
    )


def _failed(payload: dict[str, Any]) -> bool:
    status = text_or_empty(payload.get("status")) or "success"
    return status != "success" or bool(payload.get("error_str"))


def _request_messages(request: dict[str, Any]) -> Any:
    body = as_object(json_value(request.get("body"))) or request
    return first_of(body, "messages", "input", "prompt")


def _parameters(payload: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Model parameters of the payload; of a spend row, what its request asked for."""
    given = as_object(json_value(payload.get("model_parameters")))
    body = as_object(json_value(request.get("body"))) or request
    found = given or {
        name: value
        for name, value in body.items()
        if name not in {"messages", "input", "prompt", "metadata", "litellm_metadata", "user"}
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_cut(value: Any) -> bool:
    if isinstance(value, str):
        return any(mark in value for mark in _CUT)
    if isinstance(value, dict):
        return any(_is_cut(item) for item in value.values())
    return isinstance(value, list) and any(_is_cut(item) for item in value)


def _usage(payload: dict[str, Any], said: Usage) -> Usage:
    made = tokens(payload.get("prompt_tokens")), tokens(payload.get("completion_tokens"))
    if made == (None, None):
        return said
    return Usage(made[0], made[1], said.cached_tokens, said.cache_write_tokens, "provider")
