"""A streamed answer reads as the unstreamed one, whatever the provider and the chunking."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Usage
from apprentice_pipeline.wire.forms import WireRequest, WireResponse
from apprentice_pipeline.wire.outputs import choices_form, function_call, normal_form
from apprentice_pipeline.wire.providers import wire_format

REQUEST = WireRequest("m-1", True, {"messages": [], "parameters": {}}, None, include_usage=True)
ENDPOINTS = [
    ("openai", "chat.completions"),
    ("openai", "responses"),
    ("anthropic", "messages"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
NAMES = st.text("abcdef_", min_size=1, max_size=8)
JSON = st.dictionaries(NAMES, st.integers(-(2**31), 2**31) | TEXT | st.booleans(), max_size=4)
CALLS = st.lists(
    st.builds(
        lambda i, name, said: function_call(f"c{i}", name, orjson.dumps(said).decode()),
        st.integers(0, 99),
        NAMES,
        JSON,
    ),
    max_size=3,
)
OUTPUTS = st.builds(
    lambda text, calls: normal_form([{"type": "text", "text": text}] if text else [], calls),
    TEXT,
    CALLS,
)
COUNTS = st.integers(0, 100_000)
USAGES = st.builds(
    lambda fresh, made, read: Usage(fresh + read, made, read, 0, "provider"), COUNTS, COUNTS, COUNTS
)


def read_stream(provider: str, endpoint: str, stream: bytes, cuts: list[int]) -> Any:
    reader = wire_format(provider).stream_reader(endpoint)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    held = b""
    for start, end in itertools.pairwise(edges):
        chunk = stream[start:end]
        if reader.feed(chunk):
            assert reader.terminal_offset is not None
            held += chunk[reader.terminal_offset :]
        else:
            assert reader.terminal_offset is None
    reader.close()
    return reader, held


@pytest.mark.parametrize(("provider", "endpoint"), ENDPOINTS)
@given(output=OUTPUTS, usage=USAGES, cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_stream_cut_anywhere_reads_as_the_unstreamed_answer(
    provider: str, endpoint: str, output: Any, usage: Usage, cuts: list[int]
) -> None:
    wire = wire_format(provider)
    answer = Answer(output, "m-1", "local", 1, usage)
    kwargs: dict[str, Any] = {"response_id": "r1", "created_s": 7}
    whole = wire.read_response(endpoint, wire.write_response(endpoint, REQUEST, answer, **kwargs))
    stream = b"".join(wire.write_stream(endpoint, REQUEST, answer, **kwargs))
    reader, held = read_stream(provider, endpoint, stream, cuts)
    assert reader.complete
    assert reader.result() == whole
    assert whole.output == output
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (
        usage.input_tokens,
        usage.output_tokens,
    )
    assert held
    assert stream.endswith(held)


@pytest.mark.parametrize(("provider", "endpoint"), ENDPOINTS)
@given(junk=st.lists(st.binary(max_size=80), max_size=6))
@settings(max_examples=60, deadline=None)
def test_junk_never_crashes_a_reader(provider: str, endpoint: str, junk: list[bytes]) -> None:
    reader = wire_format(provider).stream_reader(endpoint)
    for chunk in junk:
        reader.feed(chunk)
        reader.feed(b"data: " + chunk.replace(b"\n", b"") + b"\n\n")
    reader.close()
    reader.result()


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "type",
                    "text",
                    "index",
                    "tool_calls",
                    "function",
                    "usage",
                    "output",
                    "messages",
                    "input",
                    "system",
                    "model",
                    "item",
                    "response",
                    "status",
                    "name",
                    "id",
                    "role",
                    "parameters",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
KINDS = st.sampled_from(
    [
        "content_block_start",
        "content_block_delta",
        "message_start",
        "message_delta",
        "message_stop",
        "error",
        "response.completed",
        "response.output_item.done",
        "response.output_text.delta",
        "message",
    ]
)


@pytest.mark.parametrize(("provider", "endpoint"), ENDPOINTS)
@given(values=st.lists(st.tuples(KINDS, JUNK), max_size=5))
@settings(max_examples=80, deadline=None)
def test_json_of_the_wrong_shape_raises_nothing_but_wire_error(
    provider: str, endpoint: str, values: list[tuple[str, Any]]
) -> None:
    wire = wire_format(provider)
    reader = wire.stream_reader(endpoint)
    for kind, value in values:
        body = {**value, "type": kind} if isinstance(value, dict) else value
        data = orjson.dumps(body)
        reader.feed(b"data: " + data + b"\n\n")
        for read in (wire.read_request, wire.read_response):
            try:
                read(endpoint, data)
            except WireError:
                continue
    reader.result()


@pytest.mark.parametrize(("provider", "endpoint"), ENDPOINTS)
def test_a_cut_stream_is_not_complete_but_its_part_is_readable(
    provider: str, endpoint: str
) -> None:
    wire = wire_format(provider)
    answer = Answer("word " * 60, "m-1", "local", 1, Usage(3, 60, 0, 0, "provider"))
    events = list(wire.write_stream(endpoint, REQUEST, answer, response_id="r", created_s=1))
    reader, held = read_stream(provider, endpoint, b"".join(events[:5]), [])
    result = reader.result()
    assert not reader.complete
    assert held == b""
    assert isinstance(result, WireResponse)
    assert answer.output.startswith(result.output)


def test_several_choices_become_one_block_each() -> None:
    wire = wire_format("openai")
    output = choices_form(["yes", normal_form([], [function_call("c", "f", "{}")])])
    answer = Answer(output, "m", "local", 1)
    kwargs: dict[str, Any] = {"response_id": "r", "created_s": 1}
    whole = wire.read_response(
        "chat.completions", wire.write_response("chat.completions", REQUEST, answer, **kwargs)
    )
    stream = b"".join(wire.write_stream("chat.completions", REQUEST, answer, **kwargs))
    reader, _ = read_stream("openai", "chat.completions", stream, [100, 200])
    assert whole.output == output == reader.result().output


@pytest.mark.parametrize(
    ("provider", "endpoint", "event"),
    [
        ("openai", "chat.completions", b'data: {"error": {"message": "overloaded"}}\n\n'),
        ("openai", "responses", b'event: error\ndata: {"type": "error", "message": "x"}\n\n'),
        ("anthropic", "messages", b'event: error\ndata: {"type": "error", "error": {}}\n\n'),
    ],
)
def test_an_error_inside_a_stream_keeps_it_from_being_complete(
    provider: str, endpoint: str, event: bytes
) -> None:
    wire = wire_format(provider)
    answer = Answer("words", "m", "local", 1)
    events = list(wire.write_stream(endpoint, REQUEST, answer, response_id="r", created_s=1))
    reader, _ = read_stream(provider, endpoint, b"".join([*events[:3], event, *events[3:]]), [])
    assert not reader.complete
