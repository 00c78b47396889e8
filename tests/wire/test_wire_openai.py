"""What OpenAI really sends, read into the normal form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire import openai, openai_chat

CHAT, RESPONSES = "chat.completions", "responses"


def chat_stream(*deltas: dict[str, Any], done: bool = True) -> bytes:
    chunks = [
        {"model": "gpt-x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    events = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)
    return events + (b"data: [DONE]\n\n" if done else b"")


def chat_output(message: dict[str, Any]) -> Any:
    return openai.read_response(CHAT, orjson.dumps({"choices": [{"message": message}]})).output


def streamed_output(*deltas: dict[str, Any]) -> Any:
    reader = openai.stream_reader(CHAT)
    reader.feed(chat_stream(*deltas))
    result = reader.result()
    assert reader.complete
    assert result is not None
    return result.output


def test_parallel_tool_calls_are_merged_by_index() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    deltas = [
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function",
                         "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function",
                         "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}},
                        {"index": 0, "function": {"arguments": ": 1}"}}]},
    ]  # fmt: skip
    whole = chat_output({"role": "assistant", "content": None, "tool_calls": calls})
    assert streamed_output(*deltas) == whole == {"content": [], "tool_calls": calls}


def test_tool_calls_without_an_index_are_told_apart_by_id() -> None:
    deltas = [
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]},
        {"tool_calls": [{"function": {"arguments": "}"}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "{}"}}]},
    ]
    names = [call["function"] for call in streamed_output(*deltas)["tool_calls"]]
    assert names == [{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": "{}"}]


def test_a_refusal_is_a_block() -> None:
    whole = chat_output({"content": None, "refusal": "I cannot."})
    assert streamed_output({"refusal": "I can"}, {"refusal": "not."}) == whole
    assert whole == {"content": [{"type": "refusal", "refusal": "I cannot."}], "tool_calls": []}


def test_log_probabilities_are_not_part_of_the_output() -> None:
    body = {"choices": [{"message": {"content": "hi"}, "logprobs": {"content": [{"token": "hi"}]}}]}
    assert openai.read_response(CHAT, orjson.dumps(body)).output == "hi"


def test_an_answer_of_null_content_is_empty_text() -> None:
    assert chat_output({"content": None}) == "" == streamed_output({"role": "assistant"})


def test_cached_tokens_are_part_of_the_input_tokens() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 80},
    }
    body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    read = openai.read_response(CHAT, orjson.dumps(body)).usage
    assert (read.input_tokens, read.cached_tokens, read.source) == (100, 80, "provider")


def test_a_stream_without_usage_says_so() -> None:
    reader = openai.stream_reader(CHAT)
    reader.feed(chat_stream({"content": "x"}))
    result = reader.result()
    assert result is not None
    assert result.usage.source == "none"


def test_a_stream_without_done_is_not_complete() -> None:
    reader = openai.stream_reader(CHAT)
    reader.feed(chat_stream({"content": "x"}, done=False))
    reader.close()
    assert not reader.complete


def test_a_terminal_line_is_held_before_its_blank_line_came() -> None:
    reader = openai.stream_reader(CHAT)
    first = chat_stream({"content": "x"}, done=False)
    assert reader.feed(first + b"data: [DONE]\n")
    assert reader.terminal_offset == len(first)
    assert reader.feed(b"\n")
    assert reader.terminal_offset == 0
    assert reader.complete


def test_streamed_and_unstreamed_requests_have_equal_inputs() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
    plain = openai.read_request(CHAT, orjson.dumps(body))
    streamed = openai.read_request(
        CHAT, orjson.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    )
    assert plain.input == streamed.input
    assert (plain.streamed, streamed.streamed, streamed.include_usage) == (False, True, True)


def test_multipart_content_is_kept_as_sent() -> None:
    content = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {}}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    read = openai.read_request(CHAT, orjson.dumps(body))
    assert read.input["messages"][0]["content"] == content


def test_responses_input_reads_as_messages() -> None:
    body = {"model": "m", "instructions": "be brief", "input": "hello", "max_output_tokens": 9}
    read = openai.read_request(RESPONSES, orjson.dumps(body))
    assert read.input["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]
    assert read.max_output_tokens == 9


def test_a_response_under_way_has_no_output() -> None:
    body = {"object": "response", "status": "in_progress", "output": []}
    assert openai.read_response(RESPONSES, orjson.dumps(body)).output is None


def test_responses_items_become_blocks_and_calls() -> None:
    items = [
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "hi", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    body = {"status": "completed", "output": items}
    output = openai.read_response(RESPONSES, orjson.dumps(body)).output
    assert output["content"] == [{"type": "text", "text": "hi"}]
    assert output["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("path", "endpoint", "upstream"),
    [
        ("", CHAT, "/v1/chat/completions"),
        ("/", CHAT, "/v1/chat/completions"),
        ("/v1", CHAT, "/v1/chat/completions"),
        ("/chat/completions", CHAT, "/v1/chat/completions"),
        ("/v1/chat/completions", CHAT, "/v1/chat/completions"),
        ("/responses", RESPONSES, "/v1/responses"),
        ("/v1/responses", RESPONSES, "/v1/responses"),
        ("/v1/models", None, "/v1/models"),
        ("/embeddings", None, "/v1/embeddings"),
        ("/v1/responses/abc", None, "/v1/responses/abc"),
    ],
)
def test_paths(path: str, endpoint: str | None, upstream: str) -> None:
    assert openai.endpoint_of(path) == endpoint
    assert openai.upstream_path(path) == upstream


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages": 5}', b"{}", b"\xff"])
def test_a_request_that_is_none_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        openai.read_request(CHAT, body)


def test_requests_of_ours_rename_foreign_parameters() -> None:
    body = orjson.loads(
        openai.write_request("m", [], {"stop_sequences": ["x"], "thinking": {}, "max_tokens": 3})
    )
    assert body == {"model": "m", "messages": [], "stop": ["x"], "max_tokens": 3}


def test_errors_have_openais_shape() -> None:
    error = orjson.loads(openai.write_error(401, "no key"))["error"]
    assert error["type"] == "authentication_error"
    assert error["code"] == "invalid_api_key"


@given(
    content=st.none() | st.text(max_size=8) | st.just([{"type": "text", "text": "x"}]),
    refusal=st.none() | st.just("") | st.just("no"),
    reason=st.sampled_from([None, "", "stop", "length", "tool_calls"]),
    usage=st.none() | st.just({"prompt_tokens": 3, "completion_tokens": 1}),
    more=st.dictionaries(st.sampled_from(["tool_calls", "annotations", "audio"]), st.none()),
    index=st.sampled_from([None, 0, 1]),
    choices=st.integers(0, 2),
)
def test_the_quick_reading_of_an_answer_is_the_assemblys(
    content: Any,
    refusal: str | None,
    reason: str | None,
    usage: Any,
    more: dict[str, Any],
    index: int | None,
    choices: int,
) -> None:
    message = {"role": "assistant", "content": content, "refusal": refusal, **more}
    choice = {"index": index, "message": message, "finish_reason": reason}
    document = {"model": "m", "choices": [choice] * choices, "usage": usage}
    assembly = openai_chat.ChatAssembly()
    assembly.take(document, "message")
    expected = assembly.response()
    if expected is None:
        with pytest.raises(WireError):
            openai_chat.read_document(document)
    else:
        assert openai_chat.read_document(document) == expected
