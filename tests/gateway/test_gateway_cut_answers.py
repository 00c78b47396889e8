"""An answer that a limit cut reads as one to its provider's own reader, whatever its text is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.gateway.cut_answers import cut_body, cut_events
from apprentice_pipeline.records import CUT, Answer, Usage
from apprentice_pipeline.wire.forms import WireRequest
from apprentice_pipeline.wire.outputs import ending_of
from apprentice_pipeline.wire.providers import wire_format

REQUEST = WireRequest("m", False, {"messages": [], "parameters": {}}, 2, include_usage=True)
SHAPES = [("openai", "chat.completions"), ("openai", "responses"), ("anthropic", "messages")]
TEXTS = st.text(min_size=1) | st.sampled_from(
    ['data: {"finish_reason":"stop"}', "event: done\ndata: [DONE]", '"stop_reason":"end_turn"']
)


@pytest.mark.parametrize(("provider", "endpoint"), SHAPES)
@given(text=TEXTS)
def test_it_is_read_as_cut_and_its_text_is_left_alone(
    provider: str, endpoint: str, text: str
) -> None:
    wire = wire_format(provider)
    answer = Answer(text, "m", "local", 1, Usage(3, 2, source="provider"), ending=CUT)
    made: dict[str, Any] = {"response_id": "r", "created_s": 1}
    body = cut_body(wire.write_response(endpoint, REQUEST, answer, **made))
    whole = wire.read_response(endpoint, body)
    assert (whole.output, ending_of(whole)) == (text, CUT)
    reader = wire.stream_reader(endpoint)
    for event in cut_events(wire.write_stream(endpoint, REQUEST, answer, **made)):
        reader.feed(event)
    reader.close()
    streamed = reader.result()
    assert streamed is not None
    assert (streamed.output, ending_of(streamed)) == (text, CUT)
