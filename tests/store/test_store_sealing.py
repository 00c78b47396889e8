"""What a disk may see of a record, and what comes back from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import CannotOpen, KeyMissing, StoreError, Unstorable
from apprentice_pipeline.records import ComparisonRow, Exchange, Feedback, Verdict
from apprentice_pipeline.store.rows import arrow_rows, fitting, record_rows, schema_of
from apprentice_pipeline.store.sealing import (
    MOST_LEVELS,
    TABLES,
    canonical,
    dedup_bytes,
    open_field,
    parse,
    plain_row,
    seal,
)
from apprentice_pipeline.vault import MemoryDataKeys, Vault

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_value_comes_back_equal(value: Any) -> None:
    assert parse(canonical(value)) == value


def nested(levels: int, inmost: Any) -> Any:
    """Lists and objects in turn around a value."""
    for level in range(levels):
        inmost = [inmost] if level % 2 else {"a": 1, "in": inmost}
    return inmost


@pytest.mark.parametrize("inmost", ["text", 10**30, "\ud800"], ids=["plain", "huge", "lone"])
def test_content_may_have_so_many_levels_and_no_more(inmost: Any) -> None:
    deepest = nested(MOST_LEVELS, inmost)
    assert parse(canonical(deepest)) == deepest
    for levels in (MOST_LEVELS + 1, 400, 990, 1_010, 1_023):
        with pytest.raises(Unstorable):
            canonical(nested(levels, inmost))


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(0, 9), max_size=6))
def test_equal_values_have_equal_bytes_whatever_their_order(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@pytest.mark.parametrize(
    "text", ["", "\ud800", "\x00", "é", "e\u0301", "\U0001f600" * 3, "x" * 10**6]
)
def test_text_of_every_sort_is_sealed_and_opened(
    text: str, vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    made = exchange(output=text, input={"messages": [{"role": "user", "content": text}]})
    row = seal(vault, plain_row(made, "acme"))
    assert row.first is not None
    assert row.second is not None
    place = {"tenant": "acme", "namespace": "tickets", "pair_id": made.pair_id}
    assert open_field(vault, row.first, field="input", **place) == made.input
    assert open_field(vault, row.second, field="output", **place) == text


def test_no_content_is_readable_in_a_sealed_row(
    vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    canary = "canary-7f3a"
    made = exchange(output=canary, input={"messages": [canary], "parameters": {"x": canary}})
    assert canary.encode() not in repr(seal(vault, plain_row(made, "acme"))).encode()


def test_input_does_not_open_as_output(vault: Vault, exchange: Callable[..., Exchange]) -> None:
    made = exchange()
    row = seal(vault, plain_row(made, "acme"))
    assert row.first is not None
    with pytest.raises(CannotOpen):
        open_field(
            vault,
            row.first,
            tenant="acme",
            namespace="tickets",
            pair_id=made.pair_id,
            field="output",
        )


def test_rows_of_a_forgotten_tenant_do_not_open(exchange: Callable[..., Exchange]) -> None:
    vault = Vault(bytes(32), MemoryDataKeys())
    made = exchange()
    row = seal(vault, plain_row(made, "acme"))
    vault.forget("acme")
    assert row.first is not None
    with pytest.raises(KeyMissing):
        open_field(
            vault,
            row.first,
            tenant="acme",
            namespace="tickets",
            pair_id=made.pair_id,
            field="input",
        )


def test_requests_that_ask_the_same_have_one_dedup_key() -> None:
    one = {"messages": ["a"], "parameters": {"temperature": 0, "stream": True, "user": "u1"}}
    same = {"parameters": {"user": "u2", "temperature": 0}, "messages": ["a"]}
    other = {"messages": ["a"], "parameters": {"temperature": 1}}
    assert dedup_bytes(one) == dedup_bytes(same)
    assert dedup_bytes(one) != dedup_bytes(other)


def test_dedup_keys_of_two_tenants_tell_nothing_of_each_other(
    vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    keys = {
        seal(vault, plain_row(exchange(tenant=tenant), tenant)).dedup_key
        for tenant in ("acme", "umbrella")
    }
    assert len(keys) == 2


def test_a_record_is_read_when_it_is_handed_over(exchange: Callable[..., Exchange]) -> None:
    made = exchange()
    row = plain_row(made, "acme")
    made.input["messages"].clear()
    assert row.first is not None
    assert parse(row.first)["messages"] == [{"content": "question 0", "role": "user"}]


@pytest.mark.parametrize(
    "changes",
    [{"tenant": "umbrella"}, {"namespace": "../up"}, {"output": object()}, {"output": {1: {2}}}],
)
def test_what_cannot_be_stored_is_refused_before_it_is_queued(
    changes: dict[str, Any], exchange: Callable[..., Exchange]
) -> None:
    with pytest.raises(StoreError):
        plain_row(exchange(**changes), "acme")


def test_every_kind_of_record_has_the_columns_of_its_table(
    vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    made = exchange()
    at_us = made.created_at_us
    records = [
        made,
        exchange(1, output=None, status=500, complete=False, cost_usd=None),
        Verdict(made.pair_id, "tickets", at_us, "v1", "verified", None, 0, "ok"),
        ComparisonRow(
            made.pair_id, "tickets", at_us, 1, "serve", 0.5, 1.0, True, True, None, 0.1, 5, 6
        ),
        Feedback(made.pair_id, "tickets", at_us, "edit", {"better": True}),
        Feedback(made.pair_id, "tickets", at_us, "approve"),
    ]
    tables = record_rows(vault, "acme", records)
    assert {name: table.num_rows for name, table in tables.items()} == {
        "captures": 2,
        "verdicts": 1,
        "comparisons": 1,
        "feedback": 2,
    }
    for name in TABLES:
        assert tables[name].schema.equals(schema_of(name))
    assert tables["captures"].column("is_pair").to_pylist() == [True, False]
    assert tables["feedback"].column("edit").to_pylist()[1] is None


def test_a_row_that_fits_no_column_is_told_apart(
    vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    rows = [
        seal(vault, plain_row(exchange(number, status=status), "acme"))
        for number, status in enumerate([200, 2**40, 201])
    ]
    with pytest.raises(StoreError):
        arrow_rows("captures", rows)
    table, misfits = fitting("captures", rows)
    assert misfits == [1]
    assert table.column("status").to_pylist() == [200, 201]
