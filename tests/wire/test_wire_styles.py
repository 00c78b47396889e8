"""Label rows in each style: whole, or refused with a reason; and what reads them reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire import chat_turns
from apprentice_pipeline.wire.imports import plain
from apprentice_pipeline.wire.styles import STYLES, styled

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
YO = {"role": "assistant", "content": "yo"}
LOOK = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": LOOK}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
CALLED = {"content": [], "tool_calls": [CALL]}
URL = "data:image/png;base64,aGk="


def row(
    output: Any = "yo", messages: Any = None, verdict: str = "verified", **parameters: Any
) -> Any:
    given = {"messages": ASK if messages is None else messages, "parameters": parameters}
    return {"pair_id": "p", "input": given, "output": output, "verdict": verdict}


def test_pairs_is_the_row_as_it_is() -> None:
    assert styled("pairs", row(verdict="rejected")) == row(verdict="rejected")


def test_text_in_each_style() -> None:
    assert styled("chat", row()) == {"messages": [*ASK, YO]}
    assert styled("trl", row()) == {"prompt": ASK, "completion": [YO]}
    said = [("system", "Be brief."), ("human", "hi"), ("gpt", "yo")]
    assert styled("sharegpt", row()) == {
        "conversations": [{"from": speaker, "value": value} for speaker, value in said]
    }


def test_tools_and_calls_in_each_style() -> None:
    asked = row(CALLED, tools=TOOLS, parallel_tool_calls=False)
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert styled("chat", asked) == {
        "messages": [*ASK, answer], "tools": TOOLS, "parallel_tool_calls": False,
    }  # fmt: skip
    trl = styled("trl", asked)
    assert json.loads(trl["tools"]) == TOOLS
    assert trl["completion"][0]["tool_calls"][0]["function"] == {
        "name": "look", "arguments": {"a": 1},
    }  # fmt: skip
    shared = styled("sharegpt", asked)
    assert shared["conversations"][-1] == {
        "from": "function_call", "value": '{"name":"look","arguments":{"a":1}}',
    }  # fmt: skip
    assert json.loads(shared["tools"]) == [LOOK]


ANTHROPIC = [
    {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "let me"},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"a": 1}}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "7"}]},
        {"type": "text", "text": "and?"}]},
]  # fmt: skip
RESPONSES = [
    {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "reasoning", "summary": []},
    {"role": "assistant", "content": [{"type": "output_text", "text": "let me"}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
    {"type": "function_call_output", "call_id": "c1", "output": "7"},
    {"role": "user", "content": "and?"},
]
CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "let me", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "7"},
    {"role": "user", "content": "and?"},
]


@pytest.mark.parametrize("messages", [CHAT, ANTHROPIC, RESPONSES])
def test_a_conversation_with_tools_is_the_same_whoever_the_provider(messages: Any) -> None:
    assert chat_turns.turns({"messages": messages}) == CHAT


@pytest.mark.parametrize(
    "tool",
    [
        TOOLS[0],
        {"type": "function", **LOOK},
        {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}},
        {"type": "custom", "name": "look", "description": "Looks.",
         "input_schema": {"type": "object"}},
    ],
)  # fmt: skip
def test_a_tool_is_declared_the_same_whoever_the_provider(tool: Any) -> None:
    assert styled("chat", row(tools=[tool]))["tools"] == TOOLS


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "input_image", "image_url": URL},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "inlineData", "inlineData": {"mimeType": "image/png", "data": "aGk="}},
    ],
)
def test_images_stay_in_chat_and_are_refused_where_there_is_no_form_for_them(block: Any) -> None:
    asked = row(messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, block]}])
    (turn, _) = styled("chat", asked)["messages"]
    assert turn["content"][1] == {"type": "image_url", "image_url": {"url": URL}}
    for style in ("trl", "sharegpt"):
        with pytest.raises(WireError, match="images"):
            styled(style, asked)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (row(verdict="rejected"), "rejected"),
        (row(verdict="quarantined"), "quarantined"),
        (row({"content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []}), "refusal"),
        (row({"content": [{"type": "choice", "index": n, "output": "a"} for n in (0, 1)],
              "tool_calls": []}), "several answers"),
        (row({"content": [{"type": "audio", "transcript": "a"}], "tool_calls": []}), "audio"),
        (row(""), "empty"),
        (row(tools=[{"type": "web_search"}]), "tools that the provider runs"),
        (row(previous_response_id="r"), "the provider keeps"),
        (row(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]), "audio"),
        (row(messages=[{"role": "narrator", "content": "x"}]), "unknown kind"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", [style for style in STYLES if style != "pairs"])
def test_what_a_style_cannot_hold_is_refused_with_a_reason(
    asked: Any, why: str, style: str
) -> None:
    with pytest.raises(WireError, match=why):
        styled(style, asked)


def test_a_person_s_correction_is_the_answer() -> None:
    corrected = row({"category": "billing"}, verdict="approved")
    assert styled("trl", corrected)["completion"][0]["content"] == '{"category":"billing"}'


def test_thoughts_are_no_part_of_the_answer() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = {"content": [thought, {"type": "text", "text": "yo"}], "tool_calls": []}
    assert styled("chat", row(said))["messages"][-1] == YO


@pytest.mark.parametrize("style", STYLES)
def test_what_a_style_wrote_is_read_back_by_import(style: str) -> None:
    (call,) = plain.read(styled(style, row()))
    assert (call.input["messages"], call.output) == (ASK, "yo")


@pytest.mark.parametrize("style", ["chat", "trl"])
def test_tool_calls_come_back_too(style: str) -> None:
    (call,) = plain.read(json.loads(json.dumps(styled(style, row(CALLED, tools=TOOLS)))))
    assert call.input == {"messages": ASK, "parameters": {"tools": TOOLS}}
    assert call.output == CALLED
