"""MLflow: traces as `Trace.to_json` and `search_traces` write them.

A trace is `{"info", "data": {"spans"}}`; a row of a search holds it as JSON text under `trace`.
Attributes are JSON text. A span of type CHAT_MODEL or LLM is one call; where such a span wraps
another (a framework's around its SDK's), the inner one counts. A span that failed is no pair.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

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
    text_or_empty,
    tokens,
)

_CALLS: Final = {"CHAT_MODEL", "LLM"}


@reads
def read(record: dict[str, Any]) -> list[PastCall]:
    """The calls of a trace. Raises: WireError."""
    trace = as_object(json_value(record.get("trace"))) or record
    data = as_object(json_value(trace.get("data")))
    spans = json_value(data.get("spans", trace.get("spans")))
    if not isinstance(spans, list):
        raise WireError("not a trace with its spans")
    asking = [span for span in map(as_object, as_list(spans)) if _type(span) in _CALLS]
    outer = {_parent(span) for span in asking}
    return [call for span in asking if _id(span) not in outer for call in _calls(trace, span)]


def _calls(trace: dict[str, Any], span: dict[str, Any]) -> list[PastCall]:
    asked, said = _content(span, "Inputs"), _content(span, "Outputs")
    if _failed(span) or asked is None or said is None:
        return []
    answer = loose_answer(said)
    if not is_fit(answer):
        return []
    arguments = as_object(asked) if isinstance(asked, dict) else {}
    named = text_or_empty(_attribute(span, "mlflow.llm.model"))
    model = answer.model or named or text_or_empty(arguments.get("model"))
    provider = provider_name(_attribute(span, "mlflow.llm.provider"), model)
    started = moment_us(first_of(span, "start_time_unix_nano", "start_time", "start_time_ns"))
    ended = moment_us(first_of(span, "end_time_unix_nano", "end_time", "end_time_ns"))
    trace_id = first_of(as_object(trace.get("info")), "trace_id", "request_id")
    return [
        PastCall(
            input=loose_input(asked, _parameters(span)),
            output=answer.output,
            provider=provider,
            endpoint=endpoint_name(provider),
            model=bare_model(model, provider),
            created_at_us=started,
            latency_us=between_us(started, ended),
            usage=_usage(span, answer.usage),
            cost_usd=real(as_object(_attribute(span, "mlflow.llm.cost")).get("total_cost")),
            streamed=arguments.get("stream") is True,
            record_id=f"{text_or_empty(trace_id)}/{_id(span)}",
        )
    ]


def _attribute(span: dict[str, Any], name: str) -> Any:
    """An attribute, decoded: MLflow stores every one as JSON text."""
    value = as_object(span.get("attributes")).get(name)
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _content(span: dict[str, Any], side: str) -> Any:
    found = _attribute(span, f"mlflow.span{side}")
    value = span.get(side.lower()) if found is None else found
    return None if value in (None, "", [], {}) else json_value(value)


def _parameters(span: dict[str, Any]) -> dict[str, Any]:
    tools = _attribute(span, "mlflow.chat.tools")
    found = as_object(_attribute(span, "invocation_params"))
    kept = {name: found[name] for name in found if name not in {"_type", "model", "model_name"}}
    return {"tools": tools, **kept} if isinstance(tools, list) and tools else kept


def _usage(span: dict[str, Any], said: Usage) -> Usage:
    if said.input_tokens is not None or said.output_tokens is not None:
        return said
    counted = as_object(_attribute(span, "mlflow.chat.tokenUsage"))
    made = tokens(counted.get("input_tokens")), tokens(counted.get("output_tokens"))
    return Usage() if made == (None, None) else Usage(made[0], made[1], None, None, "provider")


def _type(span: dict[str, Any]) -> str:
    return text_or_empty(_attribute(span, "mlflow.spanType") or span.get("span_type"))


def _failed(span: dict[str, Any]) -> bool:
    status = span.get("status")
    code = status.get("code") if isinstance(status, dict) else span.get("status_code") or status
    return code == 2 or "ERROR" in text_or_empty(code).upper()


def _id(span: dict[str, Any]) -> str:
    context = as_object(span.get("context"))
    return text_or_empty(span.get("span_id") or context.get("span_id"))


def _parent(span: dict[str, Any]) -> str:
    return text_or_empty(first_of(span, "parent_span_id", "parent_id"))
