"""What is recorded: the same from a stream as from the whole answer, its tokens, its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from apprentice_pipeline.records import Usage
from apprentice_pipeline.remote.prices import cost_usd
from tests.conformance.conftest import Both, Side

GPT, CLAUDE = "gpt-4o", "claude-haiku-4-5-20251001"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
CALLS = [
    {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2.5, None]}},
    {"name": "time", "arguments": {"city": "Lima"}},
]
TABLE: dict[str, Any] = {
    "text": LONG,
    "nothing": "",
    "fields": {"category": "billing", "priority": 2, "note": 'quotes " and \\ and \n'},
    "calls": {"$reply": {"calls": CALLS}},
    "everything": {"$reply": {"text": LONG, "thinking": "First this.", "calls": CALLS}},
    "refusal": {"$reply": {"refusal": "I will not help with that."}},
}
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMES = ("weather", "time")
SAME = (
    "is_pair", "complete", "ending", "status", "model", "provider", "endpoint", "input_tokens",
    "output_tokens", "cached_tokens", "cache_write_tokens", "usage_source", "cost_usd", "dedup_key",
)  # fmt: skip


def chat(text: str, **more: Any) -> Callable[[Side], Any]:
    tools = [{"type": "function", "function": {"name": n, "parameters": PARAMETERS}} for n in NAMES]
    asked: Any = {"model": GPT, "messages": [{"role": "user", "content": text}], "tools": tools}

    def call(side: Side) -> None:
        with openai.OpenAI(base_url=side.openai, api_key="sk-x", max_retries=0) as client:
            client.chat.completions.create(**asked, **more)
            options = {"include_usage": True}
            list(
                client.chat.completions.create(**asked, **more, stream=True, stream_options=options)
            )

    return call


def respond(text: str) -> Callable[[Side], Any]:
    tools = [{"type": "function", "name": n, "parameters": PARAMETERS} for n in NAMES]
    asked: Any = {"model": GPT, "input": text, "tools": tools, "reasoning": {"effort": "low"}}

    def call(side: Side) -> None:
        with openai.OpenAI(base_url=side.openai, api_key="sk-x", max_retries=0) as client:
            client.responses.create(**asked)
            list(client.responses.create(**asked, stream=True))

    return call


def message(text: str) -> Callable[[Side], Any]:
    tools = [{"name": n, "input_schema": PARAMETERS} for n in NAMES]
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    asked: Any = {"model": CLAUDE, "max_tokens": 2_000, "tools": tools, "thinking": thinking}
    asked["messages"] = [{"role": "user", "content": text}]

    def call(side: Side) -> None:
        given: Any = {"api_key": "sk-x", "max_retries": 0}
        with anthropic.Anthropic(base_url=side.anthropic, **given) as client:
            client.messages.create(**asked)
            list(client.messages.create(**asked, stream=True))

    return call


@pytest.mark.parametrize("ask", [chat, respond, message])
@pytest.mark.parametrize("text", list(TABLE))
def test_a_stream_is_recorded_as_the_whole_answer_is(both: Both, ask: Any, text: str) -> None:
    ids = {"chat": "call_", "respond": "call_", "message": "toolu_"}[ask.__name__]
    whole, streamed = both(ask(text), TABLE).rows
    assert (whole.streamed, streamed.streamed) == (False, True)
    assert whole.input == streamed.input
    assert without_ids(whole.output, ids) == without_ids(streamed.output, ids)
    assert [whole.facts[name] for name in SAME] == [streamed.facts[name] for name in SAME]
    assert whole.is_pair == (text != "refusal")
    assert whole.usage_source == "provider"


def test_several_choices_are_recorded_the_same(both: Both) -> None:
    whole, streamed = both(chat("text", n=3, logprobs=True), TABLE).rows
    assert whole.output == streamed.output
    assert whole.output_tokens == streamed.output_tokens


def without_ids(output: Any, prefix: str) -> Any:
    """An output but for the ids of its calls, which the stand-in counts."""
    if not isinstance(output, dict):
        return output
    assert all(call["id"].startswith(prefix) for call in output["tool_calls"])
    calls = [{**call, "id": prefix} for call in output["tool_calls"]]
    return {**output, "tool_calls": calls}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_tokens_and_cost_of_a_cached_prompt(both: Both, provider: str, streamed: bool) -> None:
    """What the provider said it counted, cached prompts at their own price."""
    rules = "rule " * 4_000

    def ask_gpt(side: Side) -> Any:
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        messages: Any = [{"role": "system", "content": rules}, {"role": "user", "content": "text"}]
        with openai.OpenAI(base_url=side.openai, api_key="sk-x", max_retries=0) as client:
            for _ in range(2):
                answer = client.chat.completions.create(
                    model=GPT, messages=messages, **(options if streamed else {})
                )
                usage = list(answer)[-1].usage if streamed else answer.usage
        return (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details.cached_tokens,
        )

    def ask_claude(side: Side) -> Any:
        system: Any = [{"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}}]
        asked: Any = {"model": CLAUDE, "max_tokens": 200, "system": system}
        asked["messages"] = [{"role": "user", "content": "text"}]
        given: Any = {"api_key": "sk-x", "max_retries": 0}
        with anthropic.Anthropic(base_url=side.anthropic, **given) as client:
            for _ in range(2):
                if streamed:
                    with client.messages.stream(**asked) as stream:
                        usage = stream.get_final_message().usage
                else:
                    usage = client.messages.create(**asked).usage
        cached = usage.cache_read_input_tokens or 0
        return usage.input_tokens + cached, usage.output_tokens, cached

    run = both(ask_gpt if provider == "openai" else ask_claude, TABLE)
    first, second = run.rows
    prompt, answer, cached = run.value
    assert (second.input_tokens, second.output_tokens, second.cached_tokens) == run.value
    assert cached > 1_024
    model = GPT if provider == "openai" else CLAUDE
    usage = Usage(prompt, answer, cached, 0, "provider")
    assert second.cost_usd == pytest.approx(cost_usd(provider, model, usage, {}), rel=1e-9)
    assert second.cost_usd < first.cost_usd
