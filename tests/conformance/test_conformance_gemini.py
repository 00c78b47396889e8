"""Google's own SDK and plain HTTP to Gemini's API, straight and through the gateway."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from google import genai
from google.genai import errors, types

from tests.conformance.conformance_gemini import (
    CALLS,
    EVERYTHING,
    LONG,
    MODEL,
    PIXEL,
    REFUSAL,
    THINKING,
    TOOLS,
    ask,
    asynchronous,
    plain,
    sync,
)
from tests.conformance.conformance_leaving import cancelled_after, cancelled_in
from tests.conformance.conftest import Both, Row, Side

SAME = (
    "is_pair", "complete", "ending", "status", "model", "provider", "endpoint", "input_tokens",
    "output_tokens", "cached_tokens", "usage_source", "cost_usd", "dedup_key",
)  # fmt: skip
GOOGLES_OWN = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
BODY = {"contents": [{"role": "user", "parts": [{"text": "ping"}]}]}


def calls_of(row: Row) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in row.output["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def over_http(*paths: str, body: Any = BODY, **headers: str) -> Callable[[Side], Any]:
    """The bodies of calls to these paths, made with no SDK."""

    def call(side: Side) -> Any:
        given = {"x-goog-api-key": side.key, "content-type": "application/json", **headers}
        with httpx.Client(headers={**given, **side.headers}, timeout=60) as made:
            sent = body if isinstance(body, bytes) else orjson.dumps(body)
            return [made.post(side.gemini + path, content=sent).content for path in paths]

    return call


# --- the SDK ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_and_its_whole_conversation(both: Both, streamed: bool) -> None:
    contents: Any = [
        types.UserContent("earlier"),
        types.ModelContent("before"),
        types.UserContent("ping"),
    ]
    config: Any = {"system_instruction": "be brief", "temperature": 0.5, "stop_sequences": ["END"]}
    run = both(ask(contents, streamed=streamed, **config), {"ping": LONG})
    assert (run.row.is_pair, run.row.output, run.row.streamed) == (True, LONG, streamed)
    assert run.row.input["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "earlier"},
        {"role": "assistant", "content": "before"},
        {"role": "user", "content": "ping"},
    ]
    assert run.row.input["parameters"] == {
        "temperature": 0.5,
        "stop_sequences": ["END"],
    }
    if streamed:
        assert len(run.value) > 1


@GOOGLES_OWN
def test_the_asynchronous_client_whole_and_streamed(both: Both) -> None:
    async def work(made: Any) -> Any:
        asked: Any = {"model": MODEL, "contents": "ping"}
        whole = await made.models.generate_content(**asked)
        chunks = await made.models.generate_content_stream(**asked)
        return plain(whole), [plain(chunk) async for chunk in chunks]

    run = both(asynchronous(work), {"ping": LONG})
    assert [row.output for row in run.rows] == [LONG, LONG]


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_and_parallel_tools(both: Both, streamed: bool) -> None:
    run = both(ask("both", streamed=streamed, tools=TOOLS, **THINKING), {"both": EVERYTHING})
    assert run.row.is_pair
    assert calls_of(run.row) == [(call["name"], call["arguments"]) for call in CALLS]
    assert [block["type"] for block in run.row.output["content"]] == ["thinking", "text"]


def test_a_tool_s_result_is_part_of_the_conversation(both: Both) -> None:
    contents: Any = [
        types.UserContent("what time?"),
        types.ModelContent([types.Part.from_function_call(name="time", args={"city": "Lima"})]),
        types.UserContent([types.Part.from_function_response(name="time", response={"at": "12"})]),
        types.UserContent("and now?"),
    ]
    run = both(ask(contents, tools=TOOLS), {"and now?": "Noon."})
    _, called, answered, _ = run.row.input["messages"]
    assert called["tool_calls"][0]["function"]["name"] == "time"
    assert (answered["role"], answered["content"], run.row.output) == (
        "tool",
        '{"at":"12"}',
        "Noon.",
    )


@pytest.mark.parametrize("pixels", [1, 10_000])
def test_images(both: Both, pixels: int) -> None:
    image = types.Part.from_bytes(data=PIXEL * pixels, mime_type="image/png")
    stored = types.Part.from_uri(file_uri="https://example.org/a.png", mime_type="image/png")
    run = both(ask([types.UserContent([image, stored, "what is it?"])]), {"what is it?": "Noise."})
    said = run.row.input["messages"][0]["content"]
    data = base64.urlsafe_b64encode(PIXEL * pixels).decode()
    assert said[0]["inlineData"] == {"mimeType": "image/png", "data": data}
    assert said[1]["fileData"] == {
        "mimeType": "image/png",
        "fileUri": "https://example.org/a.png",
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_several_candidates(both: Both, streamed: bool) -> None:
    run = both(ask("ping", streamed=streamed, candidate_count=3), {"ping": LONG})
    assert [block["output"] for block in run.row.output["content"]] == [LONG] * 3


def test_structured_outputs_are_parsed_by_the_sdk(both: Both) -> None:
    config: Any = {"response_mime_type": "application/json", "response_json_schema": {}}
    run = both(ask("file it", **config), {"file it": {"category": "billing"}})
    assert run.value["parsed"] == json.loads(run.row.output) == {"category": "billing"}


def test_models_and_token_counts_pass_uncaptured(both: Both) -> None:
    def work(made: genai.Client) -> Any:
        counted = made.models.count_tokens(model=MODEL, contents="ping")
        return [each.model_dump() for each in made.models.list()], plain(counted)

    run = both(sync(work))
    assert run.value[1]["total_tokens"] > 0
    assert run.rows == []


# --- plain HTTP ---------------------------------------------------------------------------------

METHOD = f"/models/{MODEL}:streamGenerateContent"


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_every_way_to_ask_is_recorded_alike(both: Both, version: str) -> None:
    """Whole, as events, as a JSON array: one pair three times."""
    start = f"/{version}/models/{MODEL}"
    run = both(
        over_http(
            f"{start}:generateContent",
            f"{start}:streamGenerateContent?alt=sse",
            f"{start}:streamGenerateContent",
        ),
        {"ping": LONG},
    )
    array = orjson.loads(run.value[2])
    parts = [part["candidates"][0]["content"]["parts"][0]["text"] for part in array]
    assert "".join(parts) == LONG
    assert len(parts) > 1
    assert [row.streamed for row in run.rows] == [False, True, True]
    assert [row.output for row in run.rows] == [LONG] * 3


@pytest.mark.parametrize("query", ["", "?alt=sse"], ids=["array", "events"])
def test_a_compressed_stream_passes_as_it_is_and_is_read(both: Both, query: str) -> None:
    call = over_http(f"/v1beta{METHOD}{query}", **{"accept-encoding": "gzip"})
    run = both(call, {"ping": LONG}, compress=True)
    response = run.seen[0].response
    assert response is not None
    assert response.header("content-encoding") == "gzip"
    assert (run.row.is_pair, run.row.output) == (True, LONG)


@pytest.mark.parametrize("query", ["", "?alt=sse"], ids=["array", "events"])
def test_a_stream_that_the_provider_breaks_off(both: Both, query: str) -> None:
    def call(side: Side) -> Any:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            over_http(f"/v1beta{METHOD}{query}")(side)

    run = both(call, {"ping": LONG}, cut_share=1.0)
    assert (run.row.is_pair, run.row.complete) == (False, False)
    assert LONG.startswith(run.row.output)


@pytest.mark.parametrize("body", [b"", b"{", b'{"contents": []}', b'{"contents": 3}'])
def test_a_request_that_the_provider_does_not_understand(both: Both, body: bytes) -> None:
    run = both(over_http(f"/v1beta/models/{MODEL}:generateContent", body=body))
    assert orjson.loads(run.value[0])["error"]["status"] == "INVALID_ARGUMENT"
    assert (run.row.is_pair, run.row.status, run.row.output) == (False, 400, None)


# --- what is recorded ---------------------------------------------------------------------------

TABLE: dict[str, Any] = {
    "text": LONG,
    "nothing": "",
    "fields": {"category": "billing", "priority": 2, "note": 'quotes " and \\ and \n'},
    "calls": {"$reply": {"calls": CALLS}},
    "everything": EVERYTHING,
    "refusal": REFUSAL,
}


@pytest.mark.parametrize("text", list(TABLE))
def test_a_stream_is_recorded_as_the_whole_answer_is(both: Both, text: str) -> None:
    asked: Any = {"model": MODEL, "contents": text, "config": {"tools": TOOLS, **THINKING}}

    def work(made: genai.Client) -> Any:
        made.models.generate_content(**asked)
        list(made.models.generate_content_stream(**asked))

    whole, streamed = both(sync(work), TABLE).rows
    assert (whole.streamed, streamed.streamed) == (False, True)
    assert whole.input == streamed.input
    assert without_ids(whole.output) == without_ids(streamed.output)
    assert [whole.facts[name] for name in SAME] == [streamed.facts[name] for name in SAME]
    assert whole.is_pair == (text != "refusal")
    assert whole.usage_source == "provider"


def without_ids(output: Any) -> Any:
    """An output but for the ids of its calls, which the stand-in counts."""
    if not isinstance(output, dict):
        return output
    return {**output, "tool_calls": [{**call, "id": ""} for call in output["tool_calls"]]}


# --- what is an exchange and no pair ------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("table", "config", "ending"),
    [
        (LONG, {"max_output_tokens": 3}, "cut"),
        ({"$reply": {"text": "half of", "stop": "RECITATION"}}, {}, "cut"),
        (REFUSAL, {}, "refused"),
        ({"$reply": {"text": "", "stop": "BLOCKED"}}, {}, "refused"),
    ],
)
def test_what_did_not_end_by_itself_is_no_pair(
    both: Both, streamed: bool, table: Any, config: Any, ending: str
) -> None:
    run = both(ask("ping", streamed=streamed, **config), {"ping": table})
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, ending)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"error_share": 1.0}, errors.ServerError),
        ({"overload_share": 1.0}, errors.ServerError),
        ({"rate_limit": 0}, errors.ClientError),
        ({"require_key": "sk-other"}, errors.ClientError),
    ],
)
def test_an_error_is_an_exchange_and_no_pair(
    both: Both, streamed: bool, settings: Any, error: type[errors.APIError]
) -> None:
    def call(side: Side) -> Any:
        with pytest.raises(error) as raised:
            ask("ping", streamed=streamed)(side)
        return raised.value.code, raised.value.status, raised.value.message

    run = both(call, {"ping": "pong"}, **settings)
    assert (run.row.is_pair, run.row.status, run.row.output) == (False, run.value[0], None)


def test_the_sdk_s_retries_are_each_an_exchange(both: Both) -> None:
    def work(made: genai.Client) -> Any:
        return plain(made.models.generate_content(model=MODEL, contents="ping"))

    retry: Any = {"attempts": 9, "initial_delay": 0.01, "max_delay": 0.05}
    run = both(sync(work, retry_options=retry), {"ping": "pong"}, error_share=0.5, seed=8)
    assert [row.is_pair for row in run.rows] == [False] * (len(run.rows) - 1) + [True]
    assert len(run.rows) > 1


# --- leaving ------------------------------------------------------------------------------------


def test_a_client_that_leaves_mid_stream_ends_the_upstream_call(both: Both) -> None:
    def work(made: genai.Client) -> Any:
        stream = made.models.generate_content_stream(model=MODEL, contents="ping")
        first = next(stream).text
        stream.close()  # type: ignore[attr-defined]
        return first

    run = both(sync(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)
    assert (LONG * 40).startswith(run.row.output)


@GOOGLES_OWN
def test_a_task_that_is_cancelled_mid_stream_ends_the_upstream_call(both: Both) -> None:
    async def work(made: Any) -> Any:
        await cancelled_in(made.models.generate_content_stream(model=MODEL, contents="ping"))

    run = both(asynchronous(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)


@GOOGLES_OWN
def test_a_task_that_is_cancelled_mid_call_leaves_an_answer_that_is_kept(both: Both) -> None:
    """It is paid for: the gateway waits for it, and it is a pair."""

    async def work(made: Any) -> Any:
        await cancelled_after(made.models.generate_content(model=MODEL, contents="ping"), 0.5)

    run = both(asynchronous(work), {"ping": LONG}, alike=False, latency_ms=1_500.0)
    assert (run.row.is_pair, run.row.output) == (True, LONG)


def test_a_client_whose_time_is_up_leaves_a_whole_answer_that_is_kept(both: Both) -> None:
    def work(made: genai.Client) -> Any:
        with pytest.raises(Exception, match="timed out"):
            made.models.generate_content(model=MODEL, contents="ping")

    run = both(sync(work, timeout=500), {"ping": LONG}, alike=False, latency_ms=1_500.0)
    assert (run.row.is_pair, run.row.output) == (True, LONG)
