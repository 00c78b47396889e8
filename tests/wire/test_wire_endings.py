"""How an answer ended, told from what its provider says."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire import anthropic, openai
from apprentice_pipeline.wire.forms import WireResponse
from apprentice_pipeline.wire.outputs import choices_form, ending_of, gravest

REFUSAL: Any = {"content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []}


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        (None, "whole"),
        ("stop", "whole"),
        ("tool_calls", "whole"),
        ("end_turn", "whole"),
        ("stop_sequence", "whole"),
        ("completed", "whole"),
        ("STOP", "whole"),
        ("a word of next year", "whole"),
        ("length", "cut"),
        ("content_filter", "cut"),
        ("max_tokens", "cut"),
        ("max_output_tokens", "cut"),
        ("pause_turn", "cut"),
        ("model_context_window_exceeded", "cut"),
        ("MAX_TOKENS", "cut"),
        ("refusal", "refused"),
        ("SAFETY", "refused"),
    ],
)
def test_the_provider_s_word_says_how_an_answer_ended(reason: str | None, ending: str) -> None:
    assert ending_of(WireResponse("text", Usage(), "m", reason)) == ending


@pytest.mark.parametrize("output", [REFUSAL, choices_form(["yes", REFUSAL])])
def test_a_refusal_in_the_answer_outweighs_a_natural_stop(output: Any) -> None:
    assert ending_of(WireResponse(output, Usage(), "m", "stop")) == "refused"


def test_of_several_choices_the_gravest_end_counts() -> None:
    assert gravest(["stop", "length", "tool_calls"]) == "length"
    assert gravest(["stop", "length", "refusal"]) == "refusal"
    assert gravest([None, "stop"]) is None
    assert gravest([]) is None


def test_one_choice_of_two_that_was_cut_is_enough() -> None:
    choices = [
        {"index": at, "message": {"content": "a"}, "finish_reason": reason}
        for at, reason in enumerate(("stop", "length"))
    ]
    whole = openai.read_response("chat.completions", orjson.dumps({"choices": choices}))
    assert (whole.finish_reason, ending_of(whole)) == ("length", "cut")


def test_a_stream_ends_as_the_whole_answer_does() -> None:
    message: dict[str, Any] = {"type": "message", "model": "m", "usage": {}}
    text = {"type": "text", "text": "half"}
    body = orjson.dumps({**message, "content": [text], "stop_reason": "max_tokens"})
    events = [
        {"type": "message_start", "message": {**message, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {}},
        {"type": "message_stop"},
    ]
    reader = anthropic.stream_reader("messages")
    for event in events:
        reader.feed(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)))
    streamed = reader.result()
    assert streamed is not None
    assert ending_of(streamed) == ending_of(anthropic.read_response("messages", body)) == "cut"
