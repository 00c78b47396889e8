"""The official `anthropic` SDK, sync and async, straight and through the gateway."""

from __future__ import annotations

import base64
from typing import Any

import anthropic
import pytest

from tests.conformance.conformance_anthropic import (
    CALLS,
    EVERYTHING,
    LONG,
    MODEL,
    PIXEL,
    THOUGHT,
    TOOLS,
    ask,
    asynchronous,
    calls_of,
    sync,
    user,
)
from tests.conformance.conftest import Both


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
