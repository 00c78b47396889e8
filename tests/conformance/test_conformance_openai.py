"""The official `openai` SDK, sync and async, straight and through the gateway."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import openai
import pytest

from tests.conformance.conformance_openai import (
    CALLS,
    FLAT_TOOLS,
    LONG,
    MODEL,
    PIXEL,
    TALKING_CALLS,
    TOOLS,
    TWO_CALLS,
    Ticket,
    ask,
    asynchronous,
    calls_of,
    respond,
    sync,
    user,
)
from tests.conformance.conftest import Both, Side

# --- chat completions -------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chat_completion_and_its_whole_conversation(both: Both, streamed: bool) -> None:
    messages = user(
        [{"type": "text", "text": "ping"}],
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "earlier", "name": "ann"},
        {"role": "assistant", "content": "before"},
        {"role": "developer", "content": "and kind"},
    )
    more: Any = {"temperature": 0.5, "seed": 3, "metadata": {"a": "b"}, "stop": ["END"]}
    run = both(ask(messages=messages, stream=streamed, **more), {"ping": LONG})
    assert (run.row.is_pair, run.row.output, run.row.streamed) == (True, LONG, streamed)
    assert run.row.input == {"messages": messages, "parameters": more}


def test_the_asynchronous_client_whole_and_streamed(both: Both) -> None:
    async def work(client: openai.AsyncOpenAI) -> Any:
        whole = await client.chat.completions.create(model=MODEL, messages=user("ping"))
        chunks = await client.chat.completions.create(
            model=MODEL, messages=user("ping"), stream=True
        )
        return whole.model_dump(), [chunk.model_dump() async for chunk in chunks]

    run = both(asynchronous(work), {"ping": LONG})
    assert [row.output for row in run.rows] == [LONG, LONG]


def test_many_calls_at_once_on_the_asynchronous_client(both: Both) -> None:
    """Ids count calls in the order of their arrival, so that answers are told apart by text."""

    async def one(side: Side) -> Any:
        given: Any = {"base_url": side.openai, "api_key": "sk-x", "max_retries": 0}
        async with openai.AsyncOpenAI(**given) as client:
            asked = [
                client.chat.completions.create(model=MODEL, messages=user(f"q{n}"))
                for n in range(8)
            ]
            answers = await asyncio.gather(*asked)
        return [answer.choices[0].message.content for answer in answers]

    def call(side: Side) -> Any:
        return asyncio.run(one(side))

    table = {f"q{n}": f"answer {n}" for n in range(8)}
    run = both(call, table, alike=False)
    assert run.value == [f"answer {n}" for n in range(8)]
    found = {row.input["messages"][0]["content"]: row.output for row in run.rows}
    assert found == table


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("answer", [TWO_CALLS, TALKING_CALLS])
def test_parallel_tool_calls(both: Both, streamed: bool, answer: Any) -> None:
    more: Any = {"tools": TOOLS, "parallel_tool_calls": True, "stream": streamed}
    run = both(ask(messages=user("both"), **more), {"both": answer})
    assert run.row.is_pair
    assert calls_of(run.row) == [(call["name"], call["arguments"]) for call in CALLS]
    said = [block["text"] for block in run.row.output["content"]]
    assert said == ([answer["$reply"]["text"]] if "text" in answer["$reply"] else [])
    assert run.row.input["parameters"]["tools"] == TOOLS


def test_a_tool_s_result_is_part_of_the_conversation(both: Both) -> None:
    called = [{"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}]
    messages = [
        *user("what time?"),
        {"role": "assistant", "content": None, "tool_calls": called},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    run = both(ask(messages=messages, tools=TOOLS), {"what time?": "It is noon."})
    assert run.row.input["messages"] == messages


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_outputs_are_parsed_by_the_sdk(both: Both, streamed: bool) -> None:
    def work(client: openai.OpenAI) -> Any:
        asked: Any = {"model": MODEL, "messages": user("file it"), "response_format": Ticket}
        if not streamed:
            return client.chat.completions.parse(**asked).choices[0].message.parsed
        with client.chat.completions.stream(**asked) as stream:
            return stream.get_final_completion().choices[0].message.parsed

    run = both(sync(work), {"file it": {"category": "billing", "priority": 2}})
    assert run.value == Ticket(category="billing", priority=2)
    assert json.loads(run.row.output) == {"category": "billing", "priority": 2}
    assert run.row.input["parameters"]["response_format"]["type"] == "json_schema"


def test_images_as_base64_and_as_an_address(both: Both) -> None:
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
    ]
    run = both(ask(messages=user(content)), {"what is it?": "A pixel."})
    assert run.row.input["messages"] == user(content)


def test_a_large_image_passes_whole(both: Both) -> None:
    data = base64.b64encode(bytes(range(256)) * 4_096 * 3).decode()
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    run = both(ask(messages=user(content)), {"what is it?": "Noise."})
    assert run.row.input["messages"] == user(content)


@pytest.mark.parametrize("streamed", [False, True])
def test_several_choices_with_log_probabilities(both: Both, streamed: bool) -> None:
    more: Any = {"n": 3, "logprobs": True, "top_logprobs": 2, "stream": streamed}
    run = both(ask(messages=user("ping"), **more), {"ping": LONG})
    choices = [block["output"] for block in run.row.output["content"]]
    assert (run.row.is_pair, choices) == (True, [LONG] * 3)


def test_the_raw_response_and_its_headers(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("ping"))
        with client.chat.completions.with_streaming_response.create(
            model=MODEL, messages=user("ping")
        ) as streaming:
            body = streaming.read()
        limit = raw.headers["x-ratelimit-limit-requests"]
        return raw.request_id, limit, raw.text, raw.headers.get_list("set-cookie"), body

    run = both(sync(work), {"ping": "pong"})
    assert run.value[0].startswith("req_")
    assert len(run.value[3]) == 2


def test_usage_of_a_stream_is_recorded_as_the_provider_gave_it(both: Both) -> None:
    more: Any = {"stream": True, "stream_options": {"include_usage": True}}
    run = both(ask(messages=user("ping"), **more), {"ping": LONG})
    usage = run.value[-1]["usage"]
    assert run.row.usage_source == "provider"
    assert (run.row.input_tokens, run.row.output_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


# --- responses --------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_and_its_events(both: Both, streamed: bool) -> None:
    more: Any = {"instructions": "be brief", "metadata": {"a": "b"}, "stream": streamed}
    run = both(respond(input="ping", **more), {"ping": LONG})
    assert (run.row.is_pair, run.row.output, run.row.endpoint) == (True, LONG, "responses")
    assert run.row.input["messages"] == user("ping", {"role": "system", "content": "be brief"})
    if streamed:
        kinds = [event["type"] for event in run.value]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        assert "response.output_text.delta" in kinds


@pytest.mark.parametrize("streamed", [False, True])
def test_function_calls_and_reasoning_of_a_response(both: Both, streamed: bool) -> None:
    answer = {"$reply": {**TWO_CALLS["$reply"], "thinking": "Two places, two questions."}}
    more: Any = {"tools": FLAT_TOOLS, "reasoning": {"effort": "low"}, "stream": streamed}
    run = both(respond(input="both", **more), {"both": answer})
    assert calls_of(run.row) == [(call["name"], call["arguments"]) for call in CALLS]
    assert [block["type"] for block in run.row.output["content"]] == ["reasoning"]


def test_a_response_parsed_into_a_model(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        return client.responses.parse(
            model=MODEL, input="file it", text_format=Ticket
        ).output_parsed

    run = both(sync(work), {"file it": {"category": "billing", "priority": 2}})
    assert run.value == Ticket(category="billing", priority=2)


def test_images_and_files_in_a_response_s_input(both: Both) -> None:
    content: Any = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
        {"type": "input_file", "file_id": "file-1"},
    ]
    run = both(respond(input=user(content)), {"what is it?": "A pixel."})
    assert run.row.input["messages"] == user(content)


def test_what_is_not_captured_passes_all_the_same(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        made = client.files.create(file=("notes.txt", b"line one\nline two\n"), purpose="user_data")
        listed = [file.model_dump() for file in client.files.list()]
        content = client.files.content(made.id).read()
        gone = client.files.delete(made.id).model_dump()
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_gone")
        return made.model_dump(), listed, content, gone, client.models.list().model_dump()

    run = both(sync(work))
    assert run.value[2] == b"line one\nline two\n"
    assert run.rows == []
