"""Inputs and outputs read without knowing the provider."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.wire import anthropic, conversation, openai
from apprentice_pipeline.wire.outputs import function_call


def test_the_same_conversation_reads_the_same_from_each_provider() -> None:
    turns = [{"role": "user", "content": "hi"}]
    chat = openai.read_request(
        "chat.completions",
        orjson.dumps({"messages": [{"role": "developer", "content": "s"}, *turns]}),
    )
    responses = openai.read_request(
        "responses",
        orjson.dumps({"instructions": "s", "input": [{"type": "message", **turns[0]}]}),
    )
    messages = anthropic.read_request(
        "messages", orjson.dumps({"system": [{"type": "text", "text": "s"}], "messages": turns})
    )
    read = [conversation.prompt_messages(r.input) for r in (chat, responses, messages)]
    assert read[0] == read[1] == read[2] == [{"role": "system", "content": "s"}, *turns]
    digests = {conversation.system_prompt_digest(r.input) for r in (chat, responses, messages)}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_no_system_prompt_has_an_empty_digest() -> None:
    assert conversation.system_prompt_digest({"messages": [{"role": "user", "content": "x"}]}) == ""


def test_tools_images_and_kept_conversations_are_no_text_conversation() -> None:
    plain = [{"role": "user", "content": "x"}]
    image = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    for input in (
        {"messages": image, "parameters": {}},
        {"messages": plain, "parameters": {"tools": [{}]}},
        {"messages": plain, "parameters": {"previous_response_id": "r"}},
        {"messages": [{"role": "tool", "content": "x"}], "parameters": {}},
        {"messages": [{"type": "function_call_output", "output": "x"}], "parameters": {}},
    ):
        assert conversation.prompt_messages(input) is None


def test_answer_text_leaves_thoughts_out_and_refuses_tool_calls() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    text = {"type": "text", "text": "yes"}
    call = function_call("c", "f", "{}")
    assert conversation.answer_text("plain") == "plain"
    assert conversation.answer_text({"content": [thought, text], "tool_calls": []}) == "yes"
    assert conversation.answer_text({"content": [text], "tool_calls": [call]}) is None
    assert conversation.answer_text(None) is None


def test_facts_name_what_a_local_backend_may_lack() -> None:
    parameters = {
        "n": 2,
        "logprobs": True,
        "response_format": {"type": "json_schema"},
        "tools": [{}],
        "stop": ["x"],
        "max_tokens": 12,
        "temperature": 0.2,
    }
    facts = conversation.request_facts(
        {"messages": [{"role": "user", "content": "x" * 400}], "parameters": parameters}
    )
    assert facts.n == 2
    assert facts.logprobs
    assert facts.uses_tools
    assert facts.response_format == "json_schema"
    assert facts.unsupported == ("stop",)
    assert facts.max_output_tokens == 12
    assert 100 <= facts.prompt_tokens_estimate <= 110


def test_plain_requests_need_nothing() -> None:
    facts = conversation.request_facts(
        {"messages": [{"role": "user", "content": "x"}], "parameters": {"temperature": 1}}
    )
    assert (facts.unsupported, facts.uses_tools, facts.has_images) == ((), False, False)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "tool_calls", "n", "stop", "thinking"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JUNK), max_size=3),
    st.dictionaries(st.sampled_from(["n", "stop", "thinking", "tools", "text"]), JUNK),
)
@settings(max_examples=150, deadline=None)
def test_nothing_is_raised_whatever_a_request_holds(
    messages: list[dict[str, Any]], parameters: dict[str, Any]
) -> None:
    input = {"messages": messages, "parameters": parameters}
    conversation.prompt_messages(input)
    conversation.request_facts(input)
    conversation.estimate_usage(input, messages)
