"""Retention: what is older than its stream's rule is erased, once, and counted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import Feedback, Verdict, date_of, now_us
from apprentice_pipeline.stages.maintenance import (
    DAY_US,
    WORTH_MERGING,
    Compacted,
    compact,
    compact_in_turn,
    retention_days,
    round_of_day,
)
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.rollup import COUNTS_FILE, stream_counts
from apprentice_pipeline.store.rounds import LEASE_S, MAINTENANCE
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.workspace import Workspace

Captured = Callable[..., Any]
RULES = """\
capture: {retention_days: 30}
tasks:
  - {name: short, retention_days: 5}
  - {name: plain}
"""


def ids(workspace: Workspace, table: str = "captures", tenant: str = "default") -> set[str]:
    return set(workspace.lake.scan(tenant, table).collect()["pair_id"].to_list())


def test_a_round_counts_while_the_tables_logs_still_tell_what_came(
    home: Any, captured: Captured
) -> None:
    with home.open() as workspace:
        captured(workspace, 3)
        compact(workspace)
        kept = workspace.home.work / "default" / "tickets" / COUNTS_FILE
        counted = kept.read_bytes()
        counts = stream_counts(workspace, "default", "tickets", since_us=0, recent_us=0)
        assert counts.pairs == 3
        captured(workspace, 2, skip=3)
        compact(workspace)
        assert kept.read_bytes() != counted


def test_each_stream_has_its_own_rule_else_everybodys(home: Any, captured: Captured) -> None:
    home.configure(RULES)
    with home.open() as workspace:
        found = {name: retention_days(workspace.config, name) for name in ("short", "plain", "x")}
        assert found == {"short": 5, "plain": 30, "x": 30}
        kept, count = set(), 0
        for namespace, days in (("short", 5), ("plain", 30), ("stream", 30)):
            captured(workspace, 3, namespace=namespace, ago_us=(days + 1) * DAY_US)
            young = captured(workspace, 2, namespace=namespace, ago_us=(days - 1) * DAY_US)
            kept |= {each.pair_id for each in young}
            count += 3
        captured(workspace, 1, namespace="short", tenant="other", ago_us=6 * DAY_US)
        captured(workspace, 1, namespace="stream", tenant="other", ago_us=6 * DAY_US)
        assert compact(workspace).expired_pairs == count + 1
        assert ids(workspace) == kept
        assert len(ids(workspace, tenant="other")) == 1
        today = date_of(now_us())
        assert workspace.state.counters("default", "short", since_day=today) == {"expired": 3.0}
        assert compact(workspace).expired_pairs == 0
        assert workspace.state.counters("default", "short", since_day=today) == {"expired": 3.0}


def test_without_a_rule_everything_stays(workspace: Workspace, captured: Captured) -> None:
    captured(workspace, 3, ago_us=4_000 * DAY_US)
    assert compact(workspace).expired_pairs == 0
    assert len(ids(workspace)) == 3


def test_what_expired_leaves_one_tombstone_and_no_byte(home: Any, captured: Captured) -> None:
    """Nor do its verdict and its label stay, or the row that was trimmed from a living spool."""
    home.configure("capture: {retention_days: 10}")
    with home.open() as workspace:
        old = captured(workspace, 1, ago_us=0)[0]
        workspace.lake.erase("default")
        spool = Spool.open(workspace.home.spool, workspace.vault)
        assert spool.put(old, tenant="default").exception() is None
        drain(workspace.home.spool, workspace.lake)
        append_records(
            workspace,
            "default",
            [
                Verdict(old.pair_id, old.namespace, now_us(), "v", "verified", 1.0, 3, ""),
                Feedback(old.pair_id, old.namespace, now_us(), "edit", "a better answer"),
            ],
        )
        row = workspace.lake.scan("default", "captures").collect().row(0, named=True)
        marks = [row["input"][5:40], row["output"][5:40], row["dedup_key"]]
        later_us = now_us() + 11 * DAY_US
        assert compact(workspace, at_us=later_us).expired_pairs == 1
        spool.close()
        for table in ("captures", "verdicts", "feedback"):
            assert ids(workspace, table) == set()
        stones = workspace.state.tombstones("default", old.namespace)
        assert [(stone.pair_id, stone.erased_at_us) for stone in stones] == [
            (old.pair_id, later_us)
        ]
        for file in home.root.rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            assert not any(mark in content for mark in marks), file.name


def test_a_round_that_was_cut_short_is_finished_by_the_next(
    home: Any, captured: Captured, tmp_path: Path
) -> None:
    """Its tombstones were there already: they are not made twice."""
    home.configure("capture: {retention_days: 10}")
    with home.open() as workspace:
        old = captured(workspace, 4, ago_us=11 * DAY_US)
        obstacle = workspace.home.spool / "0.db"
        obstacle.write_bytes(b"\x13" * 10_000)
        with pytest.raises(Exception, match="damaged"):
            compact(workspace)
        assert len(ids(workspace)) == 4
        drain(workspace.home.spool, workspace.lake)
        assert compact(workspace) == Compacted(tables=0, expired_pairs=4)
        stones = workspace.state.tombstones("default", old[0].namespace)
        assert sorted(stone.pair_id for stone in stones) == sorted(each.pair_id for each in old)


def test_two_rounds_at_once_expire_each_exchange_once(home: Any, captured: Captured) -> None:
    """Dagster's schedule and the server's may meet."""
    home.configure("capture: {retention_days: 10}")
    with home.open() as workspace:
        old = captured(workspace, 60, ago_us=11 * DAY_US)
        young = captured(workspace, 20, skip=60, ago_us=9 * DAY_US)
        with ThreadPoolExecutor(3) as pool:
            rounds = [pool.submit(compact, workspace) for _ in range(3)]
        assert sum(each.result().expired_pairs for each in rounds) == len(old)
        assert ids(workspace) == {each.pair_id for each in young}
        stones = workspace.state.tombstones("default", old[0].namespace)
        assert sorted(stone.pair_id for stone in stones) == sorted(each.pair_id for each in old)
        assert workspace.state.counters("default")["expired"] == len(old)


def test_a_round_under_way_elsewhere_is_not_done_beside_it(home: Any, captured: Captured) -> None:
    """Two compactions at once would double what they merge, in an object store."""
    with home.open() as workspace:
        for number in range(3):
            captured(workspace, 1, skip=number)
        rounds = workspace.state.rounds
        theirs = rounds.claim(
            MAINTENANCE, every_us=0, lease_us=int(LEASE_S * 1_000_000), now_us=now_us()
        )
        assert theirs is not None
        assert compact_in_turn(workspace) is None
        rounds.give_back(MAINTENANCE, theirs)
        assert compact_in_turn(workspace) == Compacted(tables=3, expired_pairs=0)
        done = rounds.find(MAINTENANCE)
        assert done is not None
        assert (done.holder, done.done_us > 0) == ("", True)


def test_a_tenant_that_fails_holds_no_other_up(home: Any, captured: Captured) -> None:
    home.configure("capture: {retention_days: 10}")
    with home.open() as workspace:
        captured(workspace, 3, tenant="aaa", ago_us=11 * DAY_US)
        captured(workspace, 2, tenant="bbb", ago_us=11 * DAY_US)
        for log in (workspace.home.lake / "aaa" / "captures" / "_delta_log").glob("*.json"):
            log.write_text("no delta log")
        with pytest.raises(StoreError, match="1 of the lake's tenants"):
            compact(workspace)
        assert ids(workspace, tenant="bbb") == set()


def test_an_hourly_round_merges_what_is_worth_it(home: Any, captured: Captured) -> None:
    with home.open() as workspace:
        for number in range(4):
            captured(workspace, 1, skip=number)
        assert compact(workspace, at_least=4).tables == 0
        assert compact(workspace, at_least=3).tables == 4
        assert round_of_day(0, DAY_US) == round_of_day(DAY_US - 1, DAY_US) == 1
        assert round_of_day(DAY_US, 2 * DAY_US - 1) == WORTH_MERGING
