"""Styles of the labels export: a label row as the tools that train on it want it.

    pairs      the row as it is: every field, nothing converted
    chat       OpenAI's fine-tuning file: {"messages": […, the answer], "tools"}
    trl        TRL's conversational prompt-completion: {"prompt": […], "completion": […], "tools"}
    sharegpt   {"conversations": [{"from", "value"}, …], "tools"}, with LLaMA-Factory's names for
               calls and results

Belongs here: one row. Does not: files. A row that a style has no form for raises `WireError`, in
a few words without content, and so does one that no model should learn: rejected or quarantined,
which a training file could not say. Tool-call arguments are an object in `trl`, as chat templates
want them, JSON text elsewhere; `tools` is JSON text in `trl` and `sharegpt`, so that every row has
the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Message
from apprentice_pipeline.wire import chat_turns
from apprentice_pipeline.wire.forms import as_object

Row = dict[str, Any]

STYLES: Final = ("pairs", "chat", "trl", "sharegpt")
_UNFIT: Final = {"rejected": "rejected by a person", "quarantined": "quarantined"}


def styled(style: str, row: Row) -> Row:
    """The row in the style. Raises: WireError where the style cannot hold it."""
    write = _STYLES[style]
    if write is None:
        return row
    if (why := _UNFIT.get(row["verdict"])) is not None:
        raise WireError(why)
    given = row["input"]
    said = chat_turns.turns(given), chat_turns.answer(row["output"]), chat_turns.tools(given)
    return write(*said, given)


def _chat(turns: list[Message], answer: Message, tools: list[Row], given: Mapping[str, Any]) -> Row:
    row: Row = {"messages": [*turns, answer]}
    if tools:
        row["tools"] = tools
        parallel = as_object(given.get("parameters")).get("parallel_tool_calls")
        if isinstance(parallel, bool):
            row["parallel_tool_calls"] = parallel
    return row


def _trl(turns: list[Message], answer: Message, tools: list[Row], _given: Mapping[str, Any]) -> Row:
    row: Row = {
        "prompt": [_trl_turn(turn) for turn in turns],
        "completion": [_trl_turn(answer)],
    }
    return {**row, "tools": orjson.dumps(tools).decode()} if tools else row


def _sharegpt(
    turns: list[Message], answer: Message, tools: list[Row], _given: Mapping[str, Any]
) -> Row:
    said = [part for turn in (*turns, answer) for part in _spoken(turn)]
    declared = [tool["function"] for tool in tools]
    return {
        "conversations": said,
        **({"tools": orjson.dumps(declared).decode()} if tools else {}),
    }


def _trl_turn(turn: Message) -> Message:
    if not isinstance(turn["content"], str | None):
        raise WireError("images")
    if "tool_calls" not in turn:
        return turn
    return {**turn, "tool_calls": [_with_object(call) for call in turn["tool_calls"]]}


def _with_object(call: Row) -> Row:
    function = {**call["function"], "arguments": _arguments(call)}
    return {**call, "function": function}


def _spoken(turn: Message) -> list[dict[str, str]]:
    content, role = turn["content"], turn["role"]
    if not isinstance(content, str | None):
        raise WireError("images")
    speaker = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}[role]
    calls = [
        {"name": call["function"]["name"], "arguments": _arguments(call)}
        for call in turn.get("tool_calls", ())
    ]
    if calls and content:
        raise WireError("text and tool calls in one turn")
    if calls:
        value = orjson.dumps(calls[0] if len(calls) == 1 else calls).decode()
        return [{"from": "function_call", "value": value}]
    return [{"from": speaker, "value": content or ""}]


def _arguments(call: Row) -> Any:
    try:
        return orjson.loads(call["function"]["arguments"] or "{}")
    except orjson.JSONDecodeError:
        raise WireError("a tool call whose arguments are not JSON") from None


_STYLES: Final[
    dict[str, Callable[[list[Message], Message, list[Row], Mapping[str, Any]], Row] | None]
] = {"pairs": None, "chat": _chat, "trl": _trl, "sharegpt": _sharegpt}
