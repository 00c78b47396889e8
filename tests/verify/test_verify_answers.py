"""Reading answers: JSON in text, agreement of JSON values, the shape of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.verify import answers

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def surrogate_free(value: Any) -> bool:
    """Whether the value can be UTF-8 at all."""
    return "\\ud" not in json.dumps(value)


@given(JSON.filter(surrogate_free))
def test_a_value_agrees_with_itself_after_a_round_trip_through_text(value: Any) -> None:
    assert answers.same_json(answers.json_of(json.dumps(value)), value)


@given(JSON, JSON)
def test_agreement_is_symmetric(left: Any, right: Any) -> None:
    assert answers.same_json(left, right) == answers.same_json(right, left)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ("a ", "a", True),
        ("caf\u0065\u0301", "caf\u00e9", True),
        ("A", "a", False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        (None, 0, False),
        ("1", 1, False),
        ({}, [], False),
    ],
)
def test_values_agree_by_meaning_not_by_bytes(left: Any, right: Any, same: bool) -> None:
    assert answers.same_json(left, right) is same


def test_json_may_stand_in_a_code_fence() -> None:
    assert answers.json_of('```json\n{"intent": "refund"}\n```') == {"intent": "refund"}


@pytest.mark.parametrize("text", ["", "certainly! {}", "{} {}", "{", "NaN", "```json\n{}"])
def test_what_is_not_one_json_value_is_not_json(text: str) -> None:
    assert answers.json_of(text) is answers.NOT_JSON


def test_null_is_json() -> None:
    assert answers.json_of("null") is None


def test_an_answer_of_tool_calls_has_no_json() -> None:
    assert answers.json_of({"content": [], "tool_calls": [{"id": "c"}]}) is answers.NOT_JSON


def test_deep_values_are_compared_without_recursion() -> None:
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    assert answers.same_json(deep, deep)


def test_a_stream_is_json_when_nearly_all_of_it_is() -> None:
    mostly = ['{"a": 1, "b": "x"}'] * 97 + ["sorry"] * 3
    shape = answers.shape_of(mostly)
    assert shape.json
    assert dict(shape.fields) == {"a": frozenset({"int"}), "b": frozenset({"str"})}


def test_a_stream_with_a_tenth_of_text_is_text() -> None:
    assert not answers.shape_of(['{"a": 1}'] * 9 + ["text"]).json


def test_the_length_that_is_absurd_follows_the_stream() -> None:
    assert answers.shape_of(["x" * 10] * 5).max_chars == answers.LEAST_MAX_CHARS
    assert answers.shape_of(["x" * 10_000] * 5).max_chars == 200_000
