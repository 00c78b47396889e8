"""What Anthropic really sends, read into the normal form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire import anthropic

MESSAGES = "messages"
START = {
    "type": "message_start",
    "message": {
        "model": "claude-x",
        "content": [],
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 80,
            "cache_creation_input_tokens": 7,
            "output_tokens": 1,
        },
    },
}
END = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 42},
    },
    {"type": "message_stop"},
]


def stream(*bodies: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: " + body["type"].encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"
        for body in (START, {"type": "ping"}, *bodies, *END)
    )


def block(index: int, opened: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    start = {"type": "content_block_start", "index": index, "content_block": opened}
    parts = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [start, *parts, {"type": "content_block_stop", "index": index}]


def read(data: bytes) -> Any:
    reader = anthropic.stream_reader(MESSAGES)
    for byte in data:
        reader.feed(bytes([byte]))
    assert reader.complete
    return reader.result()


def unstreamed(content: list[dict[str, Any]]) -> Any:
    body = {"type": "message", "model": "claude-x", "content": content}
    return anthropic.read_response(MESSAGES, orjson.dumps(body))


def test_thinking_tools_and_text_read_as_the_unstreamed_blocks() -> None:
    data = stream(
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "thinking_delta", "thinking": "m"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "né"}),
        *block(
            2,
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"a": '},
            {"type": "input_json_delta", "partial_json": "[1, 2.50]}"},
        ),
        *block(3, {"type": "tool_use", "id": "t2", "name": "g", "input": {}}),
    )
    whole = unstreamed(
        [
            {"type": "thinking", "thinking": "hmm", "signature": "c2ln"},
            {"type": "text", "text": "né"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, 2.5]}},
            {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
        ]
    )
    result = read(data)
    assert result.output == whole.output
    assert [call["id"] for call in result.output["tool_calls"]] == ["t1", "t2"]
    assert result.output["content"][0]["signature"] == "c2ln"


def test_the_cache_kept_for_an_hour_and_the_service_tier_are_read() -> None:
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 1,
        "service_tier": "priority",
    }
    body = {"type": "message", "model": "claude-x", "content": [], "usage": usage}
    found = anthropic.read_response(MESSAGES, orjson.dumps(body)).usage
    assert (found.cache_write_tokens, found.hour_write_tokens) == (300, 200)
    assert found.service_tier == "priority"
    body["usage"] = {**usage, "service_tier": "standard", "cache_creation": None}
    found = anthropic.read_response(MESSAGES, orjson.dumps(body)).usage
    assert (found.hour_write_tokens, found.service_tier) == (None, "")


CALL = (
    {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
    {"type": "input_json_delta", "partial_json": '{"city": "Par'},
)


@pytest.mark.parametrize("ended", ["nothing", "max_tokens"])
def test_a_stream_cut_inside_a_tool_call_keeps_what_came(ended: str) -> None:
    """Whether the connection broke there or the answer reached its limit."""
    said = {"type": "text", "text": ""}, {"type": "text_delta", "text": "Looking."}
    data = stream(*block(0, *said), *block(1, *CALL))
    data = data[: data.index(b"event: content_block_stop", data.index(b"Par"))]
    if ended == "max_tokens":
        delta = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}
        data += b"event: message_delta\ndata: " + orjson.dumps(delta) + b"\n\n"
        data += b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    reader = anthropic.stream_reader(MESSAGES)
    reader.feed(data)
    result = reader.result()
    assert result.output["content"] == [{"type": "text", "text": "Looking."}]
    (call,) = result.output["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("f", '{"city": "Par')
    assert (result.usage.input_tokens, result.usage.output_tokens) == (97, 1)


def test_a_tool_call_that_is_no_json_though_the_answer_ended_is_not_read() -> None:
    assert read(stream(*block(0, *CALL))) is None


def test_citations_are_kept() -> None:
    data = stream(
        *block(
            0,
            {"type": "text", "text": "", "citations": []},
            {"type": "text_delta", "text": "so"},
            {"type": "citations_delta", "citation": {"cited_text": "x"}},
        )
    )
    whole = unstreamed([{"type": "text", "text": "so", "citations": [{"cited_text": "x"}]}])
    assert read(data).output == whole.output


def test_input_tokens_are_the_whole_prompt_cached_or_not() -> None:
    usage = read(stream(*block(0, {"type": "text", "text": "hi"}))).usage
    assert usage.input_tokens == 10 + 80 + 7
    assert (usage.cached_tokens, usage.cache_write_tokens) == (80, 7)
    assert usage.output_tokens == 42


def test_a_plain_answer_is_text() -> None:
    result = read(
        stream(*block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"}))
    )
    assert result.output == "hi"
    assert result.finish_reason == "end_turn"


def test_a_delta_of_an_unknown_kind_keeps_the_answer_from_being_complete() -> None:
    data = stream(*block(0, {"type": "text", "text": ""}, {"type": "new_delta", "x": 1}))
    reader = anthropic.stream_reader(MESSAGES)
    reader.feed(data)
    assert reader.ended
    assert not reader.complete


def test_system_becomes_the_first_message() -> None:
    body = {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "be kind"}],
        "messages": [{"role": "user", "content": "x"}],
    }
    request = anthropic.read_request(MESSAGES, orjson.dumps(body))
    assert request.input["messages"][0] == {"role": "system", "content": body["system"]}
    assert request.input["parameters"] == {"max_tokens": 5}
    assert request.max_output_tokens == 5


def test_requests_of_ours_move_the_system_prompt_back() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    body = orjson.loads(anthropic.write_request("m", messages, {"stop": "x", "seed": 1}))
    assert body == {
        "model": "m",
        "system": "s",
        "messages": messages[1:],
        "max_tokens": 1024,
        "stop_sequences": ["x"],
    }


@pytest.mark.parametrize("body", [b"", b"[]", b'{"type": "error"}', b'{"type": "message"}x'])
def test_a_response_that_is_none_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        anthropic.read_response(MESSAGES, body)


@pytest.mark.parametrize(
    ("path", "endpoint", "upstream"),
    [
        ("", MESSAGES, "/v1/messages"),
        ("/v1/messages", MESSAGES, "/v1/messages"),
        ("/messages", MESSAGES, "/v1/messages"),
        ("/v1/messages/count_tokens", None, "/v1/messages/count_tokens"),
        ("/v1/models", None, "/v1/models"),
    ],
)
def test_paths(path: str, endpoint: str | None, upstream: str) -> None:
    assert anthropic.endpoint_of(path) == endpoint
    assert anthropic.upstream_path(path) == upstream
