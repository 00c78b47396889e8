"""Structural faults, each by its name; sound answers pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apprentice_pipeline.config import Task
from apprentice_pipeline.records import Pair
from apprentice_pipeline.verify import structural
from apprentice_pipeline.verify.answers import shape_of

JSON_STREAM = shape_of(['{"intent": "x"}'] * 20)
TASK = Task(name="t", output_schema={"category": "str", "priority": "int"})
MakePair = Callable[..., Pair]


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("", structural.EMPTY),
        ("  \n", structural.EMPTY),
        (None, structural.EMPTY),
        ({"content": [], "tool_calls": []}, structural.EMPTY),
        ({"content": [{"type": "text", "text": " "}], "tool_calls": []}, structural.EMPTY),
        ({"content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []}, "refusal"),
        ("I'm sorry, but I can't help with that.", structural.REFUSED),
        ("I cannot assist with this request", structural.REFUSED),
        ("As an AI language model, I must decline.", structural.REFUSED),
        ("x" * 5_000, structural.TOO_LONG),
        ("refund", structural.NOT_JSON),
        ('{"other": 1}', structural.MISSHAPEN),
    ],
)
def test_each_fault_has_its_name(make_pair: MakePair, output: Any, fault: str) -> None:
    assert structural.fault(make_pair(output), None, JSON_STREAM) == fault


@pytest.mark.parametrize(
    "output",
    [
        "I can help you with that.",
        "Sorry for the delay: your parcel is on its way.",
        "I'm sorry to hear that. Your refund was issued on Monday.",
        {"content": [], "tool_calls": [{"id": "1"}]},
        "She said: I can't help with that.",
    ],
)
def test_ordinary_answers_have_none(make_pair: MakePair, output: Any) -> None:
    assert structural.fault(make_pair(output), None) is None


def test_an_answer_as_long_as_it_may_be_was_cut_off(make_pair: MakePair) -> None:
    limited = {"messages": [], "parameters": {"max_tokens": 64}}
    assert structural.fault(make_pair("a", input=limited, output_tokens=64), None) == (
        structural.CUT
    )
    assert structural.fault(make_pair("a", input=limited, output_tokens=63), None) is None


def test_an_estimated_length_proves_no_cut(make_pair: MakePair) -> None:
    limited = {"messages": [], "parameters": {"max_tokens": 64}}
    pair = make_pair("a", input=limited, output_tokens=64, usage_source="estimated")
    assert structural.fault(pair, None) is None


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("bug", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"category": "bug"}', "field priority is missing"),
        ('{"category": "bug", "priority": "high"}', "field priority is not of type int"),
        ('{"category": "bug", "priority": 1}', None),
    ],
)
def test_a_declared_schema_is_checked_field_by_field(
    make_pair: MakePair, output: str, fault: str | None
) -> None:
    assert structural.fault(make_pair(output), TASK) == fault


def test_no_fault_repeats_what_the_customer_wrote(make_pair: MakePair) -> None:
    secret = "canary-7f3a"
    for output in (secret, f'{{"{secret}": 1}}', f"I'm sorry, I can't help with {secret}"):
        assert secret not in str(structural.fault(make_pair(output), None, JSON_STREAM))
