"""Gemini's answers: whole, or streamed as events or as an array and cut anywhere."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Usage
from apprentice_pipeline.wire import gemini
from apprentice_pipeline.wire.conversation import request_facts
from apprentice_pipeline.wire.forms import WireRequest, WireResponse
from apprentice_pipeline.wire.outputs import choices_form, ending_of, function_call, normal_form
from apprentice_pipeline.wire.streams import StreamReader

ASK = "/v1beta/models/gemini-2.5-flash:generateContent"
NO_INPUT: dict[str, Any] = {"messages": [], "parameters": {}}
EVENTS = WireRequest("m-1", True, NO_INPUT, None)
ARRAY = WireRequest("m-1", True, NO_INPUT, None, as_array=True)
SAID: dict[str, Any] = {"response_id": "r1", "created_s": 7}


def answer_of(*candidates: Any, **others: Any) -> WireResponse:
    body = {"candidates": list(candidates), **others}
    return gemini.read_response("generateContent", orjson.dumps(body))


def candidate(*parts: Any, reason: str | None = "STOP", index: int = 0) -> dict[str, Any]:
    said: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    return {**said, "finishReason": reason} if reason else said


def events(*documents: Any) -> bytes:
    return b"".join(b"data: " + orjson.dumps(each) + b"\r\n\r\n" for each in documents)


def array(*documents: Any) -> bytes:
    written = (orjson.dumps(each, option=orjson.OPT_INDENT_2) for each in documents)
    return b"[" + b"\n,\r\n".join(written) + b"\n]\n"


def follow(stream: bytes, cuts: list[int]) -> tuple[StreamReader, bytes]:
    """The reader after the whole stream, and what it asked to hold back."""
    reader, held = gemini.stream_reader("generateContent"), b""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        chunk = stream[start:end]
        if reader.feed(chunk):
            assert reader.terminal_offset is not None
            held += chunk[reader.terminal_offset :]
        assert not reader.ended
    reader.close()
    return reader, held


def test_usage_counts_thoughts_as_output_and_cached_tokens_as_input() -> None:
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 60,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 155,
    }
    said = answer_of(candidate({"text": "x"}), usageMetadata=usage, modelVersion="gemini-2.5-pro")
    assert said.usage == Usage(105, 50, 60, None, "provider")
    assert said.model == "gemini-2.5-pro"


def test_thoughts_calls_and_other_parts_are_kept() -> None:
    parts = [
        {"text": "Let me see.", "thought": True},
        {"text": "Here: "},
        {"text": "1", "thoughtSignature": "c2ln"},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"functionCall": {"name": "look", "args": {"q": 1}}},
    ]
    assert answer_of(candidate(*parts)).output == {
        "content": [
            {"type": "thinking", "thinking": "Let me see.", "signature": ""},
            {"type": "text", "text": "Here: 1", "signature": "c2ln"},
            {"type": "executableCode", "executableCode": {"language": "PYTHON", "code": "1"}},
        ],
        "tool_calls": [function_call("", "look", '{"q":1}')],
    }


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("STOP", "whole"),
        ("MAX_TOKENS", "cut"),
        ("RECITATION", "cut"),
        ("MALFORMED_FUNCTION_CALL", "cut"),
        ("OTHER", "cut"),
        ("IMAGE_OTHER", "cut"),
        ("SAFETY", "refused"),
        ("PROHIBITED_CONTENT", "refused"),
        ("BLOCKLIST", "refused"),
        ("SPII", "refused"),
        ("MODEL_ARMOR", "refused"),
    ],
)
def test_how_an_answer_ended(reason: str, ending: str) -> None:
    document = {"candidates": [candidate({"text": "x"}, reason=reason)]}
    assert ending_of(answer_of(*document["candidates"])) == ending
    reader, _ = follow(events(document), [])
    response = reader.result()
    assert response is not None
    assert ending_of(response) == ending


def test_a_blocked_prompt_has_no_output_and_is_refused() -> None:
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 4},
    }
    whole = gemini.read_response("generateContent", orjson.dumps(blocked))
    assert (whole.output, ending_of(whole), whole.usage.input_tokens) == (None, "refused", 4)
    for stream in (events(blocked), array(blocked)):
        reader, held = follow(stream, [5, 20])
        assert reader.complete
        assert reader.result() == whole
        assert held


def test_the_gravest_of_several_candidates_counts() -> None:
    said = answer_of(
        candidate({"text": "a"}), candidate({"text": "b"}, reason="MAX_TOKENS", index=1)
    )
    assert ending_of(said) == "cut"


def test_what_comes_after_a_finish_reason_still_counts() -> None:
    first = {
        "candidates": [candidate({"text": "a"}), candidate({"text": "b"}, reason=None, index=1)]
    }
    last = {
        "candidates": [candidate({"text": "B"}, index=1)],
        "usageMetadata": {"promptTokenCount": 3},
    }
    for stream in (events(first, last), array(first, last)):
        reader, held = follow(stream, [])
        assert reader.complete
        response = reader.result()
        assert response is not None
        assert response.output == choices_form(["a", "bB"])
        assert response.usage.input_tokens == 3
        assert held == stream.removeprefix(b"[")
    reader, _ = follow(events(first), [])
    assert not reader.complete


def test_an_error_is_googles_own() -> None:
    assert orjson.loads(gemini.write_error(429, "slow down")) == {
        "error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}
    }
    error = {"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}
    for stream in (events(error), array({"candidates": [candidate({"text": "a"})]}, error)):
        assert not follow(stream, [])[0].complete
    with pytest.raises(WireError):
        gemini.read_response("generateContent", orjson.dumps([error]))


# --- the same answer, however it comes --------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ['"finishReason": "STOP"', '}]"\\', '\\\\"{', '{"finishReason":"STOP"}']
)
SIGNATURES = st.none() | st.text("abcd", min_size=1, max_size=4)


def signed(part: dict[str, Any], signature: str | None) -> dict[str, Any]:
    return {**part, "thoughtSignature": signature} if signature else part


PARTS = st.one_of(
    st.builds(lambda text, s: signed({"text": text}, s), TEXT, SIGNATURES),
    st.builds(lambda text, s: signed({"text": text, "thought": True}, s), TEXT, SIGNATURES),
    st.builds(
        lambda name, args, s: signed({"functionCall": {"name": name, "args": args}}, s),
        st.sampled_from(["look", "finishReason"]),
        st.dictionaries(TEXT | st.just("finishReason"), TEXT | st.integers(-9, 9), max_size=3),
        SIGNATURES,
    ),
    st.builds(lambda data: {"inlineData": {"mimeType": "image/png", "data": data}}, TEXT),
)
USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 2}


def pieces_of(part: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """A text part in two, as a stream would send it; any other as it is."""
    if len(part.get("text", "")) < 2:
        return [part]
    cut = 1 + at % (len(part["text"]) - 1)
    unsigned = {name: value for name, value in part.items() if name != "thoughtSignature"}
    return [{**unsigned, "text": part["text"][:cut]}, {**part, "text": part["text"][cut:]}]


@given(
    parts=st.lists(PARTS, max_size=5),
    at=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=12),
    last_alone=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_googles_streams_cut_anywhere_read_as_the_unstreamed_answer(
    parts: list[Any], at: int, cuts: list[int], last_alone: bool
) -> None:
    whole = answer_of(candidate(*parts), usageMetadata=USAGE, modelVersion="m")
    said = [piece for part in parts for piece in pieces_of(part, at)]
    documents: list[Any] = [
        {"candidates": [candidate(piece, reason=None)], "modelVersion": "m"} for piece in said
    ]
    if last_alone or not documents:
        documents.append({"candidates": [candidate({"text": ""})], "modelVersion": "m"})
    else:
        documents[-1]["candidates"][0]["finishReason"] = "STOP"
    documents[-1]["usageMetadata"] = USAGE
    for stream in (events(*documents), array(*documents)):
        reader, held = follow(stream, cuts)
        assert reader.complete
        assert reader.result() == whole
        assert held
        assert stream.endswith(held)


OUTPUTS = st.builds(
    lambda text, calls: normal_form([{"type": "text", "text": text}] if text else [], calls),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.lists(
        st.builds(
            lambda i, args: function_call(f"c{i}", "look", orjson.dumps(args).decode()),
            st.integers(0, 9),
            st.dictionaries(st.text("abc", max_size=3), st.integers(-9, 9), max_size=3),
        ),
        max_size=3,
    ),
)


@pytest.mark.parametrize("request_", [EVENTS, ARRAY], ids=["events", "array"])
@given(output=OUTPUTS, cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
@settings(max_examples=80, deadline=None)
def test_what_we_write_reads_as_what_was_meant(
    request_: WireRequest, output: Any, cuts: list[int]
) -> None:
    answer = Answer(output, "m-1", "local", 1, Usage(12, 5, 3, None, "provider"))
    body = gemini.write_response("generateContent", request_, answer, **SAID)
    whole = gemini.read_response("generateContent", body)
    stream = b"".join(gemini.write_stream("generateContent", request_, answer, **SAID))
    reader, _ = follow(stream, cuts)
    assert reader.complete
    assert reader.result() == whole
    assert (whole.output, whole.usage) == (output, answer.usage)


@pytest.mark.parametrize("request_", [EVENTS, ARRAY], ids=["events", "array"])
def test_a_cut_stream_is_not_complete_but_its_part_is_readable(request_: WireRequest) -> None:
    answer = Answer("word " * 60, "m-1", "local", 1)
    stream = b"".join(list(gemini.write_stream("g", request_, answer, **SAID))[:4])
    reader, held = follow(stream, [70])
    response = reader.result()
    assert not reader.complete
    assert held == b""
    assert response is not None
    assert response.output
    assert answer.output.startswith(response.output)


@given(junk=st.lists(st.binary(max_size=80), max_size=6))
@settings(max_examples=100, deadline=None)
def test_junk_never_crashes_a_reader(junk: list[bytes]) -> None:
    for opening in (b"", b"[", b"data: "):
        reader = gemini.stream_reader("generateContent")
        reader.feed(opening)
        for chunk in junk:
            reader.feed(chunk)
            reader.feed(b"{" + chunk + b"}\n\ndata: ")
        reader.close()
        reader.result()


NAMES = st.sampled_from(
    [
        "candidates", "content", "contents", "parts", "text", "thought", "thoughtSignature",
        "functionCall", "functionResponse", "name", "args", "response", "index", "finishReason",
        "promptFeedback", "blockReason", "usageMetadata", "promptTokenCount", "modelVersion",
        "systemInstruction", "generationConfig", "maxOutputTokens", "role", "error", "inline_data",
    ]
)  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=14,
)


@given(values=st.lists(JUNK, max_size=5))
@settings(max_examples=150, deadline=None)
def test_json_of_the_wrong_shape_raises_nothing_but_wire_error(values: list[Any]) -> None:
    reader = gemini.stream_reader("generateContent")
    for value in values:
        data = orjson.dumps(value)
        reader.feed(b"data: " + data + b"\n\n")
        with contextlib.suppress(WireError):
            request_facts(gemini.read_request("generateContent", data, ASK).input)
        with contextlib.suppress(WireError):
            gemini.read_response("generateContent", data)
    reader.close()
    reader.result()
