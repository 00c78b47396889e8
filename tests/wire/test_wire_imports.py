"""Each source's records, as that system writes them, into calls; and what is no call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import UsageError, WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.imports import sources
from apprentice_pipeline.wire.imports.calls import PastCall
from apprentice_pipeline.wire.imports.values import moment_us

AT = 1_760_000_000_000_000
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
REQUEST = {"model": "gpt-4o", "messages": ASK, "temperature": 0}


def completion(content: Any = "yo", reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": AT // 1_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": said, "finish_reason": reason, "logprobs": None}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "yo"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 2},
}
CLAUDE = {"model": "claude-sonnet-4-5", "max_tokens": 9, "system": "Be brief.", "messages": ASK[1:]}


def one(source: str, record: dict[str, Any]) -> PastCall:
    (call,) = sources.reader(source)(record)
    return call


def shifted(seconds: float) -> int:
    return AT + round(seconds * 1_000_000)


LITELLM = {
    "id": "chatcmpl-1",
    "trace_id": "t",
    "call_type": "acompletion",
    "stream": True,
    "response_cost": 0.00021,
    "status": "success",
    "custom_llm_provider": "openai",
    "total_tokens": 11,
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "startTime": AT / 1e6,
    "endTime": AT / 1e6 + 1.5,
    "completionStartTime": AT / 1e6 + 0.25,
    "model": "openai/gpt-4o",
    "model_parameters": {"temperature": 0, "stream": True, "tools": TOOLS, "top_p": None},
    "messages": ASK,
    "response": completion(),
    "metadata": {"user_api_key_hash": "x"},
}
SPEND = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": "hash",
    "spend": 0.00021,
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "startTime": "2025-10-09T08:53:20.000Z",
    "endTime": "2025-10-09T08:53:21.500Z",
    "model": "gpt-4o",
    "custom_llm_provider": "azure",
    "messages": {},
    "response": json.dumps(completion()),
    "proxy_server_request": {**REQUEST, "metadata": {"a": 1}},
    "metadata": {},
    "status": "success",
}
LANGFUSE = {
    "id": "obs-1",
    "traceId": "t",
    "type": "GENERATION",
    "name": "chat",
    "startTime": "2025-10-09T08:53:20.000Z",
    "endTime": "2025-10-09T08:53:21.500Z",
    "completionStartTime": "2025-10-09T08:53:20.250Z",
    "model": "gpt-4o",
    "modelParameters": {"temperature": 0, "max_tokens": None},
    "input": {"messages": ASK, "tools": TOOLS},
    "output": {"role": "assistant", "content": "yo"},
    "level": "DEFAULT",
    "usageDetails": {"input": 5, "output": 2, "total": 11, "input_cached_tokens": 4},
    "costDetails": {"input": 0.0001, "output": 0.00011, "total": 0.00021},
}
BLOB = {
    "id": "obs-1",
    "type": "GENERATION",
    "start_time": "2025-10-09 08:53:20.000000",
    "end_time": "2025-10-09 08:53:21.500000",
    "provided_model_name": "gpt-4o",
    "model_parameters": '{"temperature":0}',
    "input": json.dumps(ASK),
    "output": json.dumps({"role": "assistant", "content": "yo"}),
    "level": "DEFAULT",
    "usage_details": '{"input":9,"output":2,"total":11}',
    "cost_details": '{"input":0.0001,"output":0.00011}',
    "total_cost": "0.00021",
    "completion_start_time": "",
}
HELICONE = {
    "request_id": "req-1",
    "request_created_at": "2025-10-09T08:53:20.000+00:00",
    "request_body": REQUEST,
    "request_path": "https://api.openai.com/v1/chat/completions",
    "response_id": "res-1",
    "response_created_at": "2025-10-09T08:53:21.500+00:00",
    "response_body": completion(),
    "response_status": 200,
    "response_model": "gpt-4o-2024-08-06",
    "provider": "OPENAI",
    "delay_ms": 1500,
    "time_to_first_token": 250,
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "cost": 0.00021,
}


def span(identity: str, kind: str, asked: Any, said: Any, **more: Any) -> dict[str, Any]:
    attributes = {
        "mlflow.spanType": kind,
        "mlflow.spanInputs": asked,
        "mlflow.spanOutputs": said,
        "mlflow.chat.tokenUsage": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
        "mlflow.llm.model": "gpt-4o",
        "mlflow.llm.cost": {"input_cost": 0.0001, "output_cost": 0.00011, "total_cost": 0.00021},
    }
    return {
        "trace_id": "abc==",
        "span_id": identity,
        "parent_span_id": "root",
        "start_time_unix_nano": AT * 1_000,
        "end_time_unix_nano": AT * 1_000 + 1_500_000_000,
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {name: json.dumps(value) for name, value in attributes.items()},
        **more,
    }


ROOT = span("root", "CHAIN", {"q": "hi"}, "yo", parent_span_id=None)
ASKED = span("s1", "CHAT_MODEL", REQUEST, completion())
MLFLOW = {"info": {"trace_id": "tr-1"}, "data": {"spans": [ROOT, ASKED]}}

RECORDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("litellm", LITELLM, {"streamed": True, "first_byte_us": 250_000}),
    ("litellm", {"standard_logging_object": LITELLM}, {"record_id": "chatcmpl-1"}),
    ("litellm", SPEND, {"provider": "openai", "record_id": "chatcmpl-1"}),
    ("langfuse", LANGFUSE, {"streamed": True, "first_byte_us": 250_000, "record_id": "obs-1"}),
    ("langfuse", {"id": "t", "observations": [{"type": "SPAN", "id": "s"}, LANGFUSE]}, {}),
    ("langfuse", BLOB, {"streamed": False, "first_byte_us": None}),
    ("helicone", HELICONE, {"first_byte_us": 250_000, "record_id": "req-1"}),
    ("mlflow", MLFLOW, {"record_id": "tr-1/s1"}),
    ("mlflow", {"trace_id": "tr-1", "trace": json.dumps(MLFLOW)}, {"record_id": "tr-1/s1"}),
]


@pytest.mark.parametrize(("source", "record", "facts"), RECORDS)
def test_a_call_keeps_its_messages_time_tokens_and_cost(
    source: str, record: dict[str, Any], facts: dict[str, Any]
) -> None:
    call = one(source, record)
    assert call.input["messages"] == ASK
    assert call.input["parameters"]["temperature"] == 0
    assert call.output == "yo"
    assert call.provider == "openai"
    assert call.model.startswith("gpt-4o")
    assert (call.created_at_us, call.latency_us) == (AT, 1_500_000)
    assert (call.usage.input_tokens, call.usage.output_tokens) == (9, 2)
    assert call.usage.source == "provider"
    assert call.cost_usd == pytest.approx(0.00021)
    assert {name: getattr(call, name) for name in facts} == facts


def test_transport_and_unset_parameters_are_not_part_of_the_input() -> None:
    assert one("litellm", LITELLM).input["parameters"] == {"temperature": 0, "tools": TOOLS}
    assert one("langfuse", LANGFUSE).input["parameters"] == {"temperature": 0, "tools": TOOLS}


CALLED = completion(None, tool_calls=[CALL])
BY_CLAUDE = {"request_body": CLAUDE, "response_body": MESSAGE}


@pytest.mark.parametrize(
    ("source", "record"),
    [
        ("openai", {"request": REQUEST, "response": completion(None, tool_calls=[CALL])}),
        ("litellm", {**LITELLM, "response": completion(None, tool_calls=[CALL])}),
        ("langfuse", {**LANGFUSE, "output": {"role": "assistant", "tool_calls": [CALL]}}),
        ("helicone", {**HELICONE, "response_body": completion(None, tool_calls=[CALL])}),
        ("mlflow", {"data": {"spans": [span("s", "LLM", REQUEST, CALLED)]}}),
        ("jsonl", {"messages": [*ASK, {"role": "assistant", "tool_calls": [CALL]}]}),
    ],
)  # fmt: skip
def test_tool_calls_are_kept_whole(source: str, record: dict[str, Any]) -> None:
    assert one(source, record).output == {"content": [], "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("source", "record"),
    [
        ("openai", {"request": CLAUDE, "response": MESSAGE}),
        ("helicone", {**HELICONE, "provider": "ANTHROPIC", **BY_CLAUDE}),
        ("langfuse", {**LANGFUSE, "model": "claude-x", "input": CLAUDE, "output": MESSAGE}),
    ],
)  # fmt: skip
def test_anthropic_bodies_are_read_as_the_gateway_reads_them(
    source: str, record: dict[str, Any]
) -> None:
    call = one(source, record)
    assert (call.provider, call.endpoint) == ("anthropic", "messages")
    assert call.input["messages"] == ASK
    assert call.output == "yo"
    assert call.usage.input_tokens == 9


def test_responses_bodies_are_read() -> None:
    asked = {"model": "gpt-5", "instructions": "Be brief.", "input": "hi", "store": False}
    part = {"type": "output_text", "text": "yo", "annotations": []}
    said = {"id": "r", "object": "response", "status": "completed", "model": "gpt-5",
            "created_at": AT / 1e6, "output": [{"type": "message", "content": [part]}]}  # fmt: skip
    call = one("openai", {"request": asked, "response": said})
    assert (call.endpoint, call.output) == ("responses", "yo")
    assert call.input == {"messages": ASK, "parameters": {"store": False}}
    assert call.created_at_us == AT


def test_openai_s_own_forms_are_understood() -> None:
    logged = {"created_at": "2025-10-09T08:53:20Z", "latency_ms": 1500, "cost_usd": 0.1,
              "request": {"method": "POST", "url": "/v1/chat/completions", "body": REQUEST},
              "response": {"status_code": 200, "body": completion()}}  # fmt: skip
    call = one("openai", logged)
    assert (call.created_at_us, call.latency_us, call.cost_usd) == (AT, 1_500_000, 0.1)
    assert call.usage == Usage(9, 2, 4, None, "provider")
    stored = {**completion(), "messages": ASK, "temperature": 0, "metadata": {"a": "b"}}
    assert one("openai", stored).input == {"messages": ASK, "parameters": {"temperature": 0}}
    tuned = {"messages": [*ASK, {"role": "assistant", "content": "yo"}], "tools": TOOLS}
    assert one("openai", tuned).input == {"messages": ASK, "parameters": {"tools": TOOLS}}


@pytest.mark.parametrize(
    "record",
    [
        {"input": {"messages": ASK}, "output": "yo"},
        {"input": ASK, "output": "yo"},
        {"messages": ASK, "output": "yo"},
        {"messages": [*ASK, {"role": "assistant", "content": "yo"}]},
        {"prompt": ASK, "completion": [{"role": "assistant", "content": "yo"}]},
        {"messages": ASK, "completion": "yo"},
        {"conversations": [{"from": "system", "value": "Be brief."},
                           {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
    ],
)  # fmt: skip
def test_plain_lines_in_any_of_their_forms(record: dict[str, Any]) -> None:
    facts = {"model": "gpt-4o", "created_at": "2025-10-09T08:53:20Z", "input_tokens": 9,
             "output_tokens": 2, "cost_usd": 0.1, "latency_us": 7}  # fmt: skip
    call = one("jsonl", {**record, **facts})
    assert call.input == {"messages": ASK, "parameters": {}}
    assert (call.output, call.model, call.created_at_us) == ("yo", "gpt-4o", AT)
    assert (call.usage.input_tokens, call.cost_usd, call.latency_us) == (9, 0.1, 7)


def test_a_plain_prompt_is_a_user_s_message() -> None:
    assert one("jsonl", {"input": "hi", "output": "yo"}).input["messages"] == ASK[1:]
    assert one("jsonl", {"prompt": "hi", "completion": "yo"}).input["messages"] == ASK[1:]


CUT = "hi (litellm_truncated skipped 9000 chars) bye"


@pytest.mark.parametrize(
    ("source", "record"),
    [
        ("openai", {"request": REQUEST, "response": {"status_code": 500, "body": {"error": {}}}}),
        ("openai", {"request": REQUEST, "response": {"error": {"message": "no"}}}),
        ("openai", {"request": REQUEST, "response": completion("cut of", reason="length")}),
        ("openai", {"request": REQUEST, "response": completion(None, refusal="I cannot")}),
        ("openai", {"request": CLAUDE, "response": {**MESSAGE, "stop_reason": "max_tokens"}}),
        ("litellm", {**LITELLM, "status": "failure", "response": None}),
        ("litellm", {**LITELLM, "call_type": "aembedding"}),
        ("litellm", {**LITELLM, "messages": [{"role": "user", "content": CUT}]}),
        ("litellm", {**LITELLM, "messages": "redacted-by-litellm"}),
        ("litellm", {**SPEND, "response": {}, "proxy_server_request": "{}"}),
        ("langfuse", {**LANGFUSE, "type": "SPAN"}),
        ("langfuse", {**LANGFUSE, "level": "ERROR"}),
        ("langfuse", {**LANGFUSE, "output": None}),
        ("helicone", {**HELICONE, "response_status": 429}),
        ("helicone", {**HELICONE, "request_body": "", "response_body": ""}),
        ("mlflow", {"data": {"spans": [ROOT]}}),
        ("mlflow", {"data": {"spans": [{**ASKED, "status": {"code": "STATUS_CODE_ERROR"}}]}}),
    ],
)
def test_what_was_no_complete_successful_whole_chat_is_passed_over(
    source: str, record: dict[str, Any]
) -> None:
    assert sources.reader(source)(record) == []


@pytest.mark.parametrize("source", sources.SOURCES)
@pytest.mark.parametrize("record", [{}, {"a": 1}, {"messages": 7}, {"input": {}, "output": {}}])
def test_a_record_of_another_shape_is_malformed(source: str, record: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        sources.reader(source)(record)


def test_a_batch_s_output_alone_is_malformed() -> None:
    with pytest.raises(WireError, match="request"):
        sources.reader("openai")({"custom_id": "a", "response": {"body": completion()}})


def test_a_framework_s_span_around_its_sdk_s_counts_once() -> None:
    human = {"type": "human", "content": "hi"}
    said = {"generations": [[{"text": "yo", "message": {"type": "ai", "content": "yo"}}]]}
    outer = span("o", "CHAT_MODEL", {"messages": [[human]]}, said)
    inner = {**ASKED, "parent_span_id": "o"}
    both = sources.reader("mlflow")({"info": {}, "data": {"spans": [outer, inner]}})
    assert [call.record_id for call in both] == ["/s1"]
    alone = one("mlflow", {"info": {}, "data": {"spans": [outer]}})
    assert alone.input["messages"] == [{"role": "user", "content": "hi"}]
    assert alone.output == "yo"


@pytest.mark.parametrize(
    "value",
    [AT / 1e6, AT // 1_000, AT, AT * 1_000, str(AT // 1_000_000), "2025-10-09T08:53:20Z",
     "2025-10-09 08:53:20", "2025-10-09T10:53:20+02:00", "2025-10-09 08:53:20.000000"],
)  # fmt: skip
def test_times_are_read_in_every_unit_and_form(value: Any) -> None:
    assert moment_us(value) == AT


@pytest.mark.parametrize(
    "value", ["soon", True, -5, "0001-01-01T00:00:00Z", 1e30, [], float("nan")]
)
def test_what_is_no_time_is_malformed(value: Any) -> None:
    with pytest.raises(WireError):
        moment_us(value)


WHOLE = {"openai": {"request": REQUEST, "response": completion()}, "litellm": LITELLM,
         "langfuse": LANGFUSE, "helicone": HELICONE, "mlflow": MLFLOW,
         "jsonl": {"messages": ASK, "output": "yo", "created_at": AT}}  # fmt: skip
JUNK = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.integers())
JUNK |= st.dictionaries(st.text(max_size=3), st.integers(), max_size=2) | st.floats()


@given(source=st.sampled_from(sources.SOURCES), data=st.data())
def test_any_field_may_hold_anything_and_only_wire_errors_come(
    source: str, data: st.DataObject
) -> None:
    record = json.loads(json.dumps(WHOLE[source]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = record
        while isinstance(place, dict) and place:
            name = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[name], dict) or not place[name] or data.draw(st.booleans()):
                place[name] = data.draw(JUNK)
                break
            place = place[name]
    try:
        calls = sources.reader(source)(record)
    except WireError:
        return
    for call in calls:
        assert call.input["messages"]
        assert call.output


def test_an_unknown_source_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        sources.reader("elsewhere")
