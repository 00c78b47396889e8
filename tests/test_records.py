"""Records: ids that order by time, names that hold no separator, schemas that match the facts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline import records
from apprentice_pipeline.records import (
    Exchange,
    Usage,
    date_of,
    is_name,
    new_pair_id,
    now_us,
    rfc3339,
)

MOMENTS = st.integers(min_value=0, max_value=4_102_444_800_000_000)


@given(MOMENTS)
def test_a_pair_id_is_a_version_7_uuid_that_carries_its_millisecond(at_us: int) -> None:
    made = uuid.UUID(new_pair_id(at_us))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == at_us // 1_000


@given(MOMENTS, st.integers(min_value=1_000, max_value=10**13))
def test_a_later_pair_id_sorts_after_an_earlier_one(at_us: int, gap_us: int) -> None:
    assert new_pair_id(at_us) < new_pair_id(at_us + gap_us)


def test_pair_ids_of_one_instant_are_unique() -> None:
    at_us = now_us()
    assert len({new_pair_id(at_us) for _ in range(20_000)}) == 20_000


def test_a_process_and_its_child_make_different_pair_ids() -> None:
    program = """
import os
from apprentice_pipeline.records import new_pair_id
new_pair_id(0)
child = os.fork()
os.write(1, "".join(new_pair_id(0) + " " for _ in range(100)).encode())
if child:
    os.waitpid(child, 0)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    made = told.stdout.split()
    assert len(set(made)) == len(made) == 200, told.stderr


@pytest.mark.parametrize("name", ["a", "0", "prod-tickets", "a_b", "x" * 63, "9-9"])
def test_names_of_lower_case_letters_digits_and_dashes_are_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "-a", "_a", "A", "a.b", "a b", "a/b", "..", "x" * 64, "a\n", "ä", "a'b", "a\x00", "a%2e"],
)
def test_what_could_separate_quote_or_escape_is_no_name(name: str) -> None:
    assert not is_name(name)


@given(MOMENTS)
def test_a_moment_and_its_partition_agree_on_the_day(at_us: int) -> None:
    assert rfc3339(at_us).startswith(date_of(at_us))


def test_moments_are_written_in_utc_to_the_microsecond() -> None:
    assert rfc3339(1_767_225_599_000_007) == "2025-12-31T23:59:59.000007Z"
    assert date_of(1_767_225_599_999_999) == "2025-12-31"
    assert date_of(1_767_225_600_000_000) == "2026-01-01"


def an_exchange(**changes: object) -> Exchange:
    facts: dict[str, object] = {
        "pair_id": new_pair_id(0),
        "tenant": "default",
        "namespace": "tickets",
        "created_at_us": 0,
        "provider": "openai",
        "endpoint": "chat.completions",
        "model": "gpt-4o",
        "status": 200,
        "complete": True,
        "streamed": False,
        "served_by": "remote",
        "input": {"messages": []},
        "output": "yes",
        "latency_us": 1,
        "first_byte_us": None,
        "usage": Usage(),
        "cost_usd": None,
    }
    return Exchange(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "is_pair"),
    [
        ({}, True),
        ({"output": ""}, True),
        ({"status": 201}, True),
        ({"served_by": "local"}, False),
        ({"complete": False}, False),
        ({"status": 429}, False),
        ({"status": 302}, False),
        ({"output": None}, False),
        ({"ending": "cut"}, False),
        ({"ending": "refused"}, False),
    ],
)
def test_only_a_complete_successful_remote_answer_is_a_pair(
    changes: dict[str, object], is_pair: bool
) -> None:
    assert an_exchange(**changes).is_pair is is_pair


def test_records_are_frozen_and_take_no_new_attribute() -> None:
    exchange = an_exchange()
    with pytest.raises(AttributeError):
        exchange.status = 500  # type: ignore[misc]
    assert not hasattr(exchange, "__dict__")


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        (records.Verdict, records.verdicts_schema),
        (records.ComparisonRow, records.comparisons_schema),
        (records.Feedback, records.feedback_schema),
    ],
)
def test_a_table_has_its_record_s_fields_and_the_date(record: type, schema: object) -> None:
    names = [field.name for field in dataclasses.fields(record)]
    assert sorted(schema().names) == sorted([*names, "date"])  # type: ignore[operator]


def test_the_captures_table_holds_no_column_of_readable_content() -> None:
    import pyarrow as pa

    schema = records.captures_schema()
    assert {schema.field(name).type for name in ("input", "output", "dedup_key")} == {pa.binary()}
    unpacked = {"usage", "tenant", "input", "output"}
    names = set(Exchange._fields) - unpacked
    assert names < set(schema.names)
