"""The official SDKs accept what we write as if the provider had written it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import orjson
import pytest

from apprentice_pipeline.records import Answer, Usage
from apprentice_pipeline.wire.outputs import function_call
from apprentice_pipeline.wire.providers import wire_format

TEXT = "One answer, long enough to be cut into several deltas: naïve café 😀. " * 3
CALL = {"content": [], "tool_calls": [function_call("c1", "look_up", '{"id":7}')]}
USAGE = Usage(120, 30, 20, 0, "provider")
Serve = Callable[[Callable[[str, bytes], tuple[str, bytes]]], str]


def replies(provider: str, output: Any) -> Callable[[str, bytes], tuple[str, bytes]]:
    wire = wire_format(provider)

    def reply(path: str, body: bytes) -> tuple[str, bytes]:
        endpoint = wire.endpoint_of(path)
        assert endpoint is not None
        request = wire.read_request(endpoint, body)
        answer = Answer(output, "local", "local", 1, USAGE)
        if request.streamed:
            events = wire.write_stream(endpoint, request, answer, response_id="id1", created_s=9)
            return "text/event-stream", b"".join(events)
        return "application/json", wire.write_response(
            endpoint, request, answer, response_id="id1", created_s=9
        )

    return reply


@pytest.fixture
def openai_client(serve: Serve) -> Callable[[Any], openai.OpenAI]:
    return lambda output: openai.OpenAI(
        base_url=serve(replies("openai", output)) + "/v1", api_key="none", max_retries=0
    )


@pytest.fixture
def anthropic_client(serve: Serve) -> Callable[[Any], anthropic.Anthropic]:
    return lambda output: anthropic.Anthropic(
        base_url=serve(replies("anthropic", output)), api_key="none", max_retries=0
    )


ASK: dict[str, Any] = {"model": "gpt-x", "messages": [{"role": "user", "content": "x"}]}


def test_openai_chat(openai_client: Callable[[Any], openai.OpenAI]) -> None:
    with openai_client(TEXT) as client:
        whole = client.chat.completions.create(**ASK)
        assert whole.choices[0].message.content == TEXT
        assert whole.choices[0].finish_reason == "stop"
        assert whole.model == "gpt-x"
        assert whole.usage is not None
        assert whole.usage.total_tokens == 150
        with client.chat.completions.stream(
            **ASK, stream_options={"include_usage": True}
        ) as events:
            final = events.get_final_completion()
        assert final.choices[0].message.content == TEXT
        assert final.usage is not None
        assert final.usage.prompt_tokens == 120


def test_openai_chat_tool_calls(openai_client: Callable[[Any], openai.OpenAI]) -> None:
    with openai_client(CALL) as client:
        whole = client.chat.completions.create(**ASK)
        with client.chat.completions.stream(**ASK) as events:
            final = events.get_final_completion()
    for completion in (whole, final):
        calls = completion.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.arguments == '{"id":7}'
        assert completion.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("output", [TEXT, CALL], ids=["text", "call"])
def test_openai_responses(openai_client: Callable[[Any], openai.OpenAI], output: Any) -> None:
    with openai_client(output) as client:
        whole = client.responses.create(model="gpt-x", input="x")
        with client.responses.stream(model="gpt-x", input="x") as events:
            final = events.get_final_response()
    for response in (whole, final):
        assert response.status == "completed"
        if output == TEXT:
            assert response.output_text == TEXT
        else:
            assert response.output[0].type == "function_call"
            assert orjson.loads(response.output[0].arguments) == {"id": 7}


@pytest.mark.parametrize("output", [TEXT, CALL], ids=["text", "call"])
def test_anthropic(anthropic_client: Callable[[Any], anthropic.Anthropic], output: Any) -> None:
    ask: dict[str, Any] = {**ASK, "max_tokens": 100}
    with anthropic_client(output) as client:
        whole = client.messages.create(**ask)
        with client.messages.stream(**ask) as events:
            final = events.get_final_message()
    for message in (whole, final):
        assert message.usage.output_tokens == 30
        assert message.usage.input_tokens == 100
        block = message.content[0]
        if output == TEXT:
            assert block.type == "text"
            assert block.text == TEXT
            assert message.stop_reason == "end_turn"
        else:
            assert block.type == "tool_use"
            assert block.input == {"id": 7}
            assert message.stop_reason == "tool_use"
