"""The official `anthropic` SDK, sync and async, straight and through the gateway."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import pytest

from tests.conformance.conftest import Both, Row, Side

MODEL = "claude-haiku-4-5-20251001"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
TOOLS: Any = [
    {
        "name": name,
        "description": "",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    for name in ("weather", "time")
]
CALLS = [
    {"name": "weather", "arguments": {"city": "Zürich"}},
    {"name": "time", "arguments": {"city": "Lima"}},
]
THOUGHT = "Two places, so two look-ups."
EVERYTHING: Any = {"$reply": {"text": "Looking.", "thinking": THOUGHT, "calls": CALLS}}
REFUSAL: Any = {"$reply": {"refusal": "I will not help with that."}}
PIXEL = base64.b64encode(bytes(range(200))).decode()


def user(content: Any, *before: Any) -> Any:
    return [*before, {"role": "user", "content": content}]


def sync(work: Callable[[anthropic.Anthropic], Any], **settings: Any) -> Callable[[Side], Any]:
    """A case with the synchronous client."""

    def call(side: Side) -> Any:
        given: Any = {"api_key": "sk-x", "max_retries": 0, **settings}
        with anthropic.Anthropic(base_url=side.anthropic, **given) as client:
            return work(client)

    return call


def asynchronous(
    work: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]],
) -> Callable[[Side], Any]:
    """A case with the asynchronous client."""

    async def run(side: Side) -> Any:
        given: Any = {"base_url": side.anthropic, "api_key": "sk-x", "max_retries": 0}
        async with anthropic.AsyncAnthropic(**given) as client:
            return await work(client)

    return lambda side: asyncio.run(run(side))


def ask(**more: Any) -> Callable[[Side], Any]:
    """A message, whole or as its events, as plain values."""

    def work(client: anthropic.Anthropic) -> Any:
        answer = client.messages.create(**{"model": MODEL, "max_tokens": 2_000, **more})
        if more.get("stream"):
            return [event.model_dump() for event in answer]
        return answer.model_dump()

    return sync(work)


def calls_of(row: Row) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in row.output["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_message_and_its_whole_conversation(both: Both, streamed: bool) -> None:
    system = [{"type": "text", "text": "be brief"}, {"type": "text", "text": "and kind"}]
    messages = user(
        [{"type": "text", "text": "ping"}],
        {"role": "user", "content": "earlier"},
        {"role": "assistant", "content": [{"type": "text", "text": "before"}]},
    )
    more: Any = {"metadata": {"user_id": "a"}, "stop_sequences": ["END"]}
    run = both(ask(system=system, messages=messages, stream=streamed, **more), {"ping": LONG})
    assert (run.row.is_pair, run.row.output, run.row.streamed) == (True, LONG, streamed)
    assert run.row.input["messages"] == [{"role": "system", "content": system}, *messages]
    assert run.row.input["parameters"] == {"max_tokens": 2_000, **more}
    if streamed:
        kinds = [event["type"] for event in run.value]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_the_asynchronous_client_and_the_stream_helper(both: Both) -> None:
    async def work(client: anthropic.AsyncAnthropic) -> Any:
        asked: Any = {"model": MODEL, "max_tokens": 2_000, "messages": user("ping")}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        return whole.model_dump(), texts, final.model_dump()

    run = both(asynchronous(work), {"ping": LONG})
    assert len(run.value[1]) > 1
    assert [row.output for row in run.rows] == [LONG, LONG]


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_and_parallel_tools(both: Both, streamed: bool) -> None:
    more: Any = {"tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1_024}}
    run = both(ask(messages=user("both"), stream=streamed, **more), {"both": EVERYTHING})
    assert run.row.is_pair
    assert calls_of(run.row) == [(call["name"], call["arguments"]) for call in CALLS]
    thought, text = run.row.output["content"]
    assert (thought["thinking"], text["text"]) == (THOUGHT, "Looking.")
    assert thought["signature"] == base64.b64encode(THOUGHT.encode()).decode()


def test_thoughts_and_results_come_back_in_the_next_request(both: Both) -> None:
    turns = [
        *user("what time?"),
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "b3BhcXVl"},
                {"type": "tool_use", "id": "toolu_1", "name": "time", "input": {"city": "Lima"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "noon"},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    run = both(ask(messages=turns, tools=TOOLS), {"and now?": "Noon."})
    assert (run.row.input["messages"], run.row.output) == (turns, "Noon.")


def test_images_and_documents(both: Both) -> None:
    content: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "text", "text": "what is it?"},
    ]
    run = both(ask(messages=user(content)), {"what is it?": "A pixel."})
    assert run.row.input["messages"] == user(content)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_cache_written_then_read(both: Both, streamed: bool) -> None:
    marked = [
        {"type": "text", "text": "rule " * 400, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    ]

    def work(client: anthropic.Anthropic) -> Any:
        usages = []
        for _ in range(2):
            with client.messages.stream(
                model=MODEL, max_tokens=50, system=marked, messages=user("ping")
            ) as stream:
                usages.append(stream.get_final_message().usage.model_dump())
        return usages

    def whole(client: anthropic.Anthropic) -> Any:
        asked: Any = {"model": MODEL, "max_tokens": 50, "messages": user("ping")}
        return [client.messages.create(system=marked, **asked).usage.model_dump() for _ in range(2)]

    run = both(sync(work if streamed else whole), {"ping": LONG}, cache_min_tokens=64)
    written, read = run.value
    assert written["cache_creation_input_tokens"] == read["cache_read_input_tokens"] > 64
    prompt = read["input_tokens"] + read["cache_read_input_tokens"]
    assert [row.input_tokens for row in run.rows] == [prompt, prompt]
    assert [row.cached_tokens for row in run.rows] == [0, read["cache_read_input_tokens"]]
    assert [row.cache_write_tokens for row in run.rows] == [
        written["cache_creation_input_tokens"],
        0,
    ]
    assert run.rows[0].input["messages"][0] == {"role": "system", "content": marked}


def test_batches_files_and_token_counts_pass_uncaptured(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        asked: Any = {"model": MODEL, "max_tokens": 9, "messages": user("ping")}
        batch = client.messages.batches.create(
            requests=[{"custom_id": name, "params": asked} for name in ("one", "two")]
        )
        results = [line.model_dump() for line in client.messages.batches.results(batch.id)]
        listed = [each.model_dump() for each in client.messages.batches.list()]
        gone = client.messages.batches.delete(batch.id).model_dump()
        counted = client.messages.count_tokens(model=MODEL, messages=user("ping")).model_dump()
        models = [each.model_dump() for each in client.models.list()]
        return batch.model_dump(), results, listed, gone, counted, models

    run = both(sync(work))
    assert [line["custom_id"] for line in run.value[1]] == ["one", "two"]
    assert run.value[4]["input_tokens"] > 0
    assert run.rows == []


def test_files_pass_uncaptured(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        made = client.beta.files.upload(file=("notes.txt", b"line one\nline two\n", "text/plain"))
        content = client.beta.files.download(made.id).read()
        listed = [file.model_dump() for file in client.beta.files.list()]
        return made.model_dump(), content, listed, client.beta.files.delete(made.id).model_dump()

    run = both(sync(work))
    assert run.value[1] == b"line one\nline two\n"
    assert run.rows == []


def test_the_raw_response_and_its_headers(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        raw = client.messages.with_raw_response.create(
            model=MODEL, max_tokens=50, messages=user("ping")
        )
        return raw.headers["request-id"], raw.text(), raw.headers.get_list("set-cookie")

    run = both(sync(work), {"ping": LONG})
    assert run.value[0].startswith("req_")


# --- what is an exchange and no pair ------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_cut_by_its_limit_is_no_pair(both: Both, streamed: bool) -> None:
    run = both(ask(messages=user("ping"), max_tokens=3, stream=streamed), {"ping": LONG})
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, "cut")
    assert run.row.output == LONG[:12]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stop", ["model_context_window_exceeded", "pause_turn"])
def test_an_answer_that_stopped_half_way_is_no_pair(both: Both, streamed: bool, stop: str) -> None:
    table = {"ping": {"$reply": {"text": "half an", "stop": stop}}}
    run = both(ask(messages=user("ping"), stream=streamed), table)
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, "cut")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_is_kept_whole_and_no_pair(both: Both, streamed: bool) -> None:
    run = both(ask(messages=user("ping"), stream=streamed), {"ping": REFUSAL})
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, "refused")
    assert run.row.output == REFUSAL["$reply"]["refusal"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"error_share": 1.0}, anthropic.InternalServerError),
        ({"overload_share": 1.0}, anthropic.APIStatusError),
        ({"rate_limit": 0}, anthropic.RateLimitError),
        ({"require_key": "sk-other"}, anthropic.AuthenticationError),
    ],
)
def test_an_error_is_an_exchange_and_no_pair(
    both: Both, streamed: bool, settings: Any, error: type[anthropic.APIStatusError]
) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        with pytest.raises(error) as raised:
            client.messages.create(
                model=MODEL, max_tokens=50, messages=user("ping"), stream=streamed
            )
        return raised.value.status_code, raised.value.body

    run = both(sync(work), {"ping": "pong"}, **settings)
    assert (run.row.is_pair, run.row.status, run.row.output) == (False, run.value[0], None)


def test_a_stream_that_the_provider_breaks_off(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        got: list[Any] = []
        events = client.messages.create(
            model=MODEL, max_tokens=2_000, messages=user("ping"), stream=True
        )
        with pytest.raises(Exception, match=r"incomplete|Connection error") as raised:
            got.extend(event.model_dump() for event in events)
        return got, type(raised.value).__name__

    run = both(sync(work), {"ping": LONG}, cut_share=1.0)
    assert (run.row.is_pair, run.row.complete) == (False, False)
    assert LONG.startswith(run.row.output)


def test_the_sdk_s_retries_are_each_an_exchange(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        return client.messages.create(
            model=MODEL, max_tokens=50, messages=user("ping")
        ).model_dump()

    run = both(sync(work, max_retries=9), {"ping": "pong"}, overload_share=0.5, seed=8)
    assert [row.is_pair for row in run.rows] == [False, True]


def test_a_client_that_leaves_mid_stream_ends_the_upstream_call(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        with client.messages.stream(model=MODEL, max_tokens=2_000, messages=user("ping")) as stream:
            return next(iter(stream.text_stream))

    run = both(sync(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)
    assert (LONG * 40).startswith(run.row.output)
