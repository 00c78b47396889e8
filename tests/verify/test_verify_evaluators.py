"""Evaluators: what agrees, which one a stream gets, plug-ins."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.config import Task
from apprentice_pipeline.errors import ConfigError
from apprentice_pipeline.verify.answers import shape_of
from apprentice_pipeline.verify.evaluators import (
    Evaluator,
    ExactMatch,
    SemanticSimilarity,
    StructuredMatch,
    agree,
    evaluator_for,
    output_valid,
    score_all,
)
from apprentice_pipeline.verify.vectors import char_vectors

TICKET = Task(
    name="classify_ticket",
    output_schema={"category": "str", "priority": "int", "confidence": "float"},
    match_fields=("category", "priority"),
)


@pytest.fixture
def plugin() -> ModuleType:
    """An importable module with evaluators of its own."""
    module = ModuleType("shop_evaluators")
    module.same_length = lambda a, b: float(len(a) == len(b))  # type: ignore[attr-defined]
    module.broken = lambda a, b: 1.5  # type: ignore[attr-defined]
    module.number = lambda a, b: float(a)  # type: ignore[attr-defined]
    module.nothing = 7  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_structured_match_looks_at_its_fields_only() -> None:
    evaluator = evaluator_for(TICKET)
    reference = '{"category": "bug", "priority": 2, "confidence": 0.9}'
    assert evaluator.score(reference, '{"category": "bug", "priority": 2, "x": 1}') == 1.0
    assert evaluator.score(reference, '{"category": "bug", "priority": 3}') == 0.0
    assert evaluator.score(reference, '{"category": "bug"}') == 0.0


def test_structured_match_without_fields_wants_all_of_them() -> None:
    evaluator = StructuredMatch()
    assert evaluator.score('{"a": 1, "b": 2}', '{"b": 2, "a": 1}') == 1.0
    assert evaluator.score('{"a": 1, "b": 2}', '{"a": 1}') == 0.0


def test_what_is_not_json_matches_nothing_not_even_itself() -> None:
    assert StructuredMatch().score("refund", "refund") == 0.0
    assert StructuredMatch(("a",)).score("[1]", "[1]") == 0.0


def test_a_declared_schema_without_match_fields_is_matched_in_every_field() -> None:
    task = Task(name="t", output_schema={"a": "int"})
    assert evaluator_for(task).score('{"a": 1, "note": "x"}', '{"a": 1, "note": "y"}') == 1.0


def test_exact_match_ignores_outer_space_and_unicode_form() -> None:
    assert ExactMatch().score("caf\u00e9\n", " cafe\u0301") == 1.0
    assert ExactMatch().score("yes", "Yes") == 0.0


def test_exact_match_compares_tool_calls_as_values() -> None:
    call = {"content": [], "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    assert ExactMatch().score(call, dict(call)) == 1.0
    assert ExactMatch().score(call, "f") == 0.0


def test_a_json_stream_is_matched_and_a_text_stream_compared() -> None:
    assert evaluator_for(None, ['{"a": 1}'] * 10).name == "structured_match"
    assert evaluator_for(None, ["hello"] * 10).name == "lexical_similarity"
    assert evaluator_for(None, ["hello"], embed=char_vectors).name == "semantic_similarity"


def test_similarity_of_wording_orders_answers_sensibly() -> None:
    evaluator = evaluator_for(None, ["text"])
    near = evaluator.score("Your parcel arrives on Monday.", "your parcel arrives Monday")
    far = evaluator.score("Your parcel arrives on Monday.", "We do not sell shoes.")
    assert near > 0.7 > 0.3 > far
    assert agree(evaluator, near)
    assert not agree(evaluator, far)


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_similarity_lies_between_0_and_1_and_is_1_for_equal_texts(
    left: str, right: str
) -> None:
    evaluator = SemanticSimilarity(char_vectors)
    assert 0.0 <= evaluator.score(left, right) <= 1.0
    assert evaluator.score(left, left) == 1.0


def test_an_empty_answer_is_similar_to_nothing() -> None:
    assert SemanticSimilarity(char_vectors).score("hello", "") == 0.0


def test_many_pairs_are_embedded_in_one_call_each_text_once() -> None:
    calls: list[list[str]] = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.asarray(char_vectors(texts))

    scores = score_all(SemanticSimilarity(embed), ["a b", "c d", "a b"], ["a b", "x", "c d"])
    assert scores[0] == 1.0
    assert calls == [["a b", "c d", "x"]]


def test_a_dotted_path_names_an_evaluator(plugin: ModuleType) -> None:
    task = Task(name="t", evaluator="shop_evaluators:same_length")
    evaluator = evaluator_for(task)
    assert isinstance(evaluator, Evaluator)
    assert evaluator.score("abc", "xyz") == 1.0


def test_a_plug_in_that_scores_outside_0_to_1_is_refused(plugin: ModuleType) -> None:
    evaluator = evaluator_for(Task(name="t", evaluator="shop_evaluators:broken"))
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\], not 1.5"):
        evaluator.score("a", "b")


def test_a_plug_in_that_breaks_is_an_error_without_the_answer(plugin: ModuleType) -> None:
    evaluator = evaluator_for(Task(name="t", evaluator="shop_evaluators:number"))
    with pytest.raises(ConfigError, match=r"it broke \(ValueError\)") as refused:
        evaluator.score("canary", "canary")
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("no_such_module:thing", "cannot be loaded"),
        ("shop_evaluators:absent", "cannot be loaded"),
        ("shop_evaluators:nothing", "neither a function"),
        ("custom", "cannot be loaded"),
    ],
)
def test_a_plug_in_that_is_not_there_says_so(plugin: ModuleType, name: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause) as refused:
        evaluator_for(Task(name="t", evaluator=name))
    assert refused.value.remedy


def test_a_declared_schema_decides_what_is_valid() -> None:
    shape = shape_of([])
    assert output_valid(TICKET, '{"category": "a", "priority": 1, "confidence": 1}', shape)
    assert not output_valid(TICKET, '{"category": "a", "priority": "1", "confidence": 1}', shape)
    assert not output_valid(TICKET, '{"category": "a", "priority": true, "confidence": 1}', shape)
    assert not output_valid(TICKET, '{"category": "a"}', shape)
    assert not output_valid(TICKET, "bug", shape)


def test_a_json_stream_wants_its_own_fields() -> None:
    shape = shape_of(['{"intent": "a", "domain": "b"}'] * 20)
    assert output_valid(None, '{"intent": "c", "domain": "d", "more": 1}', shape)
    assert not output_valid(None, '{"intent": "c"}', shape)
    assert not output_valid(None, '{"intent": 3, "domain": "d"}', shape)


def test_a_text_stream_wants_text_of_sane_length() -> None:
    shape = shape_of(["short answer"] * 20)
    assert output_valid(None, "another", shape)
    assert not output_valid(None, "  \n", shape)
    assert not output_valid(None, "x" * 5_000, shape)


def test_vectors_are_the_same_in_every_process() -> None:
    row = char_vectors(["apprentice"])[0]
    assert (
        np.flatnonzero(row)[:4].tolist()
        == np.flatnonzero(char_vectors([" APPRENTICE "])[0])[:4].tolist()
    )
    assert np.linalg.norm(row) == pytest.approx(1.0)
    assert not char_vectors([""]).any()
