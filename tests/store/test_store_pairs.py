"""Pairs: what is joined, in which order, and what is opened."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from apprentice_pipeline.errors import CannotOpen, KeyMissing, VaultError
from apprentice_pipeline.records import Exchange, Feedback, Verdict
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages import export
from apprentice_pipeline.store.pairs import PairCounts, label_rows, pair_counts, pairs
from apprentice_pipeline.store.workspace import Workspace

DAY_US = 86_400_000_000

Make = Callable[..., Exchange]
Store = Callable[..., None]


def verdict(made: Exchange, at: int, word: str, confidence: float | None = None) -> Verdict:
    moment = made.created_at_us + at
    return Verdict(made.pair_id, made.namespace, moment, "v1", word, confidence, 3, "")


def feedback(made: Exchange, at: int, action: str, edit: Any = None) -> Feedback:
    return Feedback(made.pair_id, made.namespace, made.created_at_us + at, action, edit)


def test_nothing_captured_is_nothing(workspace: Workspace) -> None:
    assert list(pairs(workspace, "acme", "tickets")) == []
    assert pair_counts(workspace, "acme", "tickets") == PairCounts()


def test_pairs_come_opened_and_in_time_order_whatever_the_batch(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    made = [exchange(number) for number in (5, 1, 3, 2, 4, 0)]
    for each in made:
        store(each)
    for batch in (1, 4, 100):
        found = list(pairs(workspace, "acme", "tickets", batch=batch))
        assert [pair.output for pair in found] == [f"answer {number}" for number in range(6)]
    first, source = found[0], made[-1]
    assert (first.pair_id, first.input, first.tenant) == (source.pair_id, source.input, "acme")
    assert (first.latency_us, first.input_tokens, first.cost_usd) == (1_234, 10, 0.001)
    assert (first.verdict, first.confidence) == ("unverified", None)
    assert len(first.dedup_key) == 32


def test_pairs_of_one_instant_are_each_there_once(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    made = [exchange(0, output=f"answer {number}") for number in range(7)]
    store(*made)
    found = [pair.pair_id for pair in pairs(workspace, "acme", "tickets", batch=2)]
    assert found == sorted(each.pair_id for each in made)


def test_only_complete_remote_answers_of_the_namespace_are_pairs(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    store(
        exchange(0),
        exchange(1, complete=False),
        exchange(2, status=429),
        exchange(3, served_by="local"),
        exchange(4, output=None),
        exchange(5, namespace="mail"),
    )
    assert [pair.output for pair in pairs(workspace, "acme", "tickets")] == ["answer 0"]
    assert pair_counts(workspace, "acme", "tickets").pairs == 1


def test_the_newest_verdict_counts(workspace: Workspace, store: Store, exchange: Make) -> None:
    one, two, three = (exchange(number) for number in range(3))
    store(one, two, three)
    store(verdict(one, 30, "verified", 1.0), verdict(two, 10, "verified", 0.5))
    store(verdict(one, 20, "quarantined", 0.0), verdict(two, 40, "quarantined", 0.25))
    found = {
        pair.pair_id: (pair.verdict, pair.confidence)
        for pair in pairs(workspace, "acme", "tickets")
    }
    assert found == {
        one.pair_id: ("verified", 1.0),
        two.pair_id: ("quarantined", 0.25),
        three.pair_id: ("unverified", None),
    }
    assert pair_counts(workspace, "acme", "tickets").verified == 1
    chosen = pairs(workspace, "acme", "tickets", verdicts={"verified", "unverified"})
    assert [pair.pair_id for pair in chosen] == [one.pair_id, three.pair_id]


def test_a_persons_newest_label_outranks_every_verdict(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    approved, rejected, edited = (exchange(number) for number in range(3))
    store(approved, rejected, edited)
    store(
        feedback(approved, 1, "reject"),
        feedback(approved, 2, "approve"),
        feedback(rejected, 1, "reject"),
        feedback(edited, 1, "edit", {"category": "billing", "note": "ü"}),
    )
    store(*(verdict(each, 9, "quarantined", 0.5) for each in (approved, rejected, edited)))
    found = [
        (pair.verdict, pair.confidence, pair.output) for pair in pairs(workspace, "acme", "tickets")
    ]
    assert found == [
        ("approved", 0.5, "answer 0"),
        ("rejected", 0.5, "answer 1"),
        ("approved", None, {"category": "billing", "note": "ü"}),
    ]
    counts = pair_counts(workspace, "acme", "tickets")
    assert (counts.approved, counts.rejected, counts.quarantined) == (2, 1, 0)


def test_filters_by_time_id_and_confidence(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    made = [exchange(number) for number in range(6)]
    store(*made)
    store(verdict(made[2], 1, "verified", 0.9), verdict(made[3], 1, "verified", 0.4))

    def outputs(**filters: Any) -> list[str]:
        return [pair.output[-1] for pair in pairs(workspace, "acme", "tickets", **filters)]

    since, until = made[1].created_at_us, made[4].created_at_us
    assert outputs(since_us=since, until_us=until) == ["1", "2", "3"]
    assert outputs(ids=[made[5].pair_id, made[0].pair_id, "none"]) == ["0", "5"]
    assert outputs(ids=[]) == []
    assert outputs(min_confidence=0.5) == ["2"]
    assert outputs(limit=2) == ["0", "1"]
    assert outputs(limit=0) == []


def test_counts_say_how_fast_pairs_come(workspace: Workspace, store: Store, exchange: Make) -> None:
    start = exchange(0).created_at_us
    minutes_a_day = 24 * 60
    store(*(exchange(day * minutes_a_day) for day in range(20) for _ in range(3)))
    counts = pair_counts(workspace, "acme", "tickets", at_us=start + 20 * DAY_US)
    assert counts.pairs == counts.unverified == 60
    assert counts.recent_per_day == pytest.approx(3)
    assert (counts.first_at_us, counts.last_at_us) == (start, start + 19 * DAY_US)
    young = pair_counts(workspace, "acme", "tickets", at_us=start + 60)
    assert young.recent_per_day == 60


def test_label_rows_have_the_fields_of_the_contract(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    made = exchange(1, cost_usd=None)
    store(exchange(0), made, verdict(made, 1, "verified", 1.0))
    rows = list(label_rows(workspace, "acme", "tickets", min_confidence=0.5))
    assert rows == [
        {
            "pair_id": made.pair_id,
            "namespace": "tickets",
            "created_at": "2025-10-09T08:54:20.000000Z",
            "provider": "openai",
            "model": "gpt-4o",
            "input": made.input,
            "output": "answer 1",
            "latency_us": 1_234,
            "input_tokens": 10,
            "output_tokens": 2,
            "usage_source": "provider",
            "cost_usd": None,
            "inclusion_probability": 1.0,
            "verdict": "verified",
            "confidence": 1.0,
        }
    ]


def test_compaction_changes_nothing_that_is_read(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    for number in range(8):
        store(exchange(number), verdict(exchange(number), 1, "verified", 1.0))
    before = list(pairs(workspace, "acme", "tickets", batch=3))
    workspace.lake.compact("acme")
    workspace.lake.vacuum("acme", 0)
    assert list(pairs(workspace, "acme", "tickets", batch=3)) == before


def test_pairs_of_a_tenant_whose_key_is_gone_are_refused(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """Gone without an erasure: the state database was replaced, and silence would hide it."""
    store(exchange(0))
    with closing(sqlite3.connect(workspace.home.state)) as connection:
        connection.execute("DELETE FROM data_keys")
        connection.commit()
    with closing(Workspace.open(workspace.settings)) as fresh, pytest.raises(KeyMissing):
        next(pairs(fresh, "acme", "tickets"))
    assert pair_counts(workspace, "acme", "tickets").pairs == 1


def test_a_file_moved_between_tenants_opens_nothing_and_labels_says_so(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """One who may write to the lake gives one tenant's rows to another, in place of its own."""
    store(exchange(0, input={"messages": ["of acme"]}))
    store(exchange(1, tenant="globex"), tenant="globex")
    lake = workspace.home.lake
    (theirs,) = (lake / "acme").glob("captures/**/*.parquet")
    (place,) = (lake / "globex").glob("captures/**/*.parquet")
    shutil.copy(theirs, place)
    (log,), (their_log,) = (
        (lake / tenant).glob("captures/_delta_log/*.json") for tenant in ("globex", "acme")
    )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    their_lines = [json.loads(line) for line in their_log.read_text().splitlines()]
    (added,) = [line["add"] for line in lines if "add" in line]
    (their_added,) = [line["add"] for line in their_lines if "add" in line]
    added.update(size=their_added["size"], stats=their_added["stats"])
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = io.BytesIO()
    with pytest.raises(CannotOpen, match="does not open") as refused:
        export.write(workspace, export.Request("globex", "tickets"), out)
    assert "moved" in refused.value.remedy
    assert out.getvalue() == b""
    assert len(list(label_rows(workspace, "acme", "tickets"))) == 1


def test_a_home_does_not_open_with_another_master_key(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    store(exchange(0))
    environment = {
        "APPRENTICE_HOME": str(workspace.home.root),
        "APPRENTICE_MASTER_KEY": "A" * 43 + "=",
    }
    with pytest.raises(VaultError) as raised:
        Workspace.open(load_settings(environment))
    assert "APPRENTICE_MASTER_KEY" in raised.value.message
    assert raised.value.remedy


def test_memory_holds_one_batch_whatever_the_corpus(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """Python's own memory; Arrow's is bounded by row groups."""
    for start in range(0, 2_000, 500):
        store(*(exchange(start + number, output="x" * 20_000) for number in range(500)))
    tracemalloc.start()
    total = sum(len(pair.output) for pair in pairs(workspace, "acme", "tickets", batch=50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 40_000_000
    assert peak < 8_000_000
