"""What a rule matches is never kept; everything else is, unchanged."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apprentice_pipeline.config import Capture, RedactionName
from apprentice_pipeline.wire.redaction import KNOWN, Redactor

EVERYTHING = Redactor(tuple(KNOWN))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc XYZ\n{}\"'", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to jo.doe+x@mail.example.org please", "write to [EMAIL] please"),
        ("card 4111 1111 1111 1111, thanks", "card [CARD], thanks"),
        ("call +49 (30) 1234-5678 today", "call [PHONE] today"),
        ("pay DE89 3704 0044 0532 0130 00 now", "pay [IBAN] now"),
        ("from 192.168.10.254 again", "from [IP] again"),
        ("my key sk-proj-abcdefghijklmnop1234 leaked", "my key [SECRET] leaked"),
        ('{"to": "a@b.co", "n": 3}', '{"to": "[EMAIL]", "n": 3}'),
    ],
)
def test_what_is_known_by_name_is_replaced_by_its_mark(text: str, kept: str) -> None:
    assert EVERYTHING.value(text) == kept


@pytest.mark.parametrize(
    "text",
    ["order 20260102", "version 1.2.3", "12 apples and 7 pears", "a@b", "room 12-34", "€ 19.99"],
)
def test_what_only_looks_a_little_like_it_stays(text: str) -> None:
    assert EVERYTHING.value(text) == text


def test_every_text_of_messages_parts_and_tool_calls_is_redacted() -> None:
    given = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "I am a@b.co"}]},
            {"tool_calls": [{"function": {"arguments": '{"mail":"a@b.co"}'}}]},
        ],
        "parameters": {"metadata": {"who": "a@b.co"}, "temperature": 0.5},
    }
    assert "a@b.co" not in repr(EVERYTHING.value(given))


def test_patterns_of_the_configuration_come_first_and_their_mark_is_taken_as_it_is() -> None:
    redactor = Redactor(("email",), [(r"ACME-\d+", r"\1 <case>")])
    assert redactor.value("ACME-12 of a@b.co") == r"\1 <case> of [EMAIL]"


@given(values)
def test_a_value_without_a_match_is_kept_equal(value: Any) -> None:
    assert EVERYTHING.value(value) == value


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = EVERYTHING.value(text)
    assert EVERYTHING.value(once) == once


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_no_pattern_takes_long_over_hostile_text(name: str) -> None:
    for text in ("1" * 50_000, "a" * 50_000 + "@", "1 -" * 20_000, "a." * 30_000, "AA11 " * 9_000):
        assert len(re.compile(KNOWN[name]).sub("", text)) <= len(text)


def test_the_configuration_knows_the_same_names() -> None:
    assert set(get_args(RedactionName)) == set(KNOWN)


def test_a_configuration_with_a_pattern_that_is_none_is_refused() -> None:
    for pattern in ("(", "a*", ""):
        with pytest.raises(ValidationError):
            Capture.model_validate({"redaction": [{"pattern": pattern}]})
