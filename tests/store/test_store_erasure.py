"""Erasure: gone from every place, with a tombstone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from apprentice_pipeline.errors import KeyMissing, UsageError
from apprentice_pipeline.records import Exchange, Feedback
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.erasure import erase
from apprentice_pipeline.store.pairs import pair_counts, pairs
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.spool_file import Lock
from apprentice_pipeline.store.spool_writer import KEY_REFRESH_S
from apprentice_pipeline.store.workspace import Workspace

Make = Callable[..., Exchange]
Store = Callable[..., None]


def put(spool: Spool, *records: Exchange) -> None:
    for future in [spool.put(record, tenant=record.tenant) for record in records]:
        assert future.exception() is None


def test_a_pair_is_erased_from_spool_and_lake(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    old, new, other = exchange(0), exchange(1), exchange(2)
    store(old, Feedback(old.pair_id, "tickets", 1, "edit", "better"))
    spool = Spool.open(workspace.home.spool, workspace.vault)
    put(spool, new, other)
    report = erase(
        workspace, "acme", namespace="tickets", pair_ids=[old.pair_id, new.pair_id], now_us=7
    )
    assert (report.spool_rows, report.lake_rows, report.rows) == (1, 1, 2)
    drain(workspace.home.spool, workspace.lake)
    assert [pair.pair_id for pair in pairs(workspace, "acme", "tickets")] == [other.pair_id]
    assert workspace.lake.scan("acme", "feedback").collect().height == 0
    stones = workspace.state.tombstones("acme", "tickets")
    assert {(stone.pair_id, stone.erased_at_us) for stone in stones} == {
        (old.pair_id, 7),
        (new.pair_id, 7),
    }
    ids = [old.pair_id, other.pair_id]
    assert workspace.state.erased_pairs("acme", "tickets", ids) == {old.pair_id}
    put(spool, exchange(3))
    spool.close()


def test_no_byte_of_an_erased_pair_is_left_under_the_home(
    workspace: Workspace, exchange: Make
) -> None:
    """Sealed bytes too: those of a row that was trimmed from its spool long ago."""
    made = exchange(0, output="x" * 3_000)
    spool = Spool.open(workspace.home.spool, workspace.vault)
    put(spool, made, exchange(1))
    drain(workspace.home.spool, workspace.lake)
    row = workspace.lake.scan("acme", "captures").collect().row(0, named=True)
    rows = workspace.lake.scan("acme", "captures").collect().rows(named=True)
    row = next(row for row in rows if row["pair_id"] == made.pair_id)
    marks = [row["input"][5:40], row["output"][5:40], row["dedup_key"]]
    erase(workspace, "acme", namespace="tickets", pair_ids=[made.pair_id], now_us=7)
    spool.close()
    for file in workspace.home.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(mark in content for mark in marks), file.name


def test_a_namespace_is_erased_and_the_tenants_others_stay(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    store(exchange(0), exchange(1), exchange(2, namespace="mail"))
    assert erase(workspace, "acme", namespace="tickets", now_us=7).rows == 2
    assert workspace.lake.namespaces("acme") == ["mail"]
    assert pair_counts(workspace, "acme", "mail").pairs == 1
    assert [stone.pair_id for stone in workspace.state.tombstones("acme", "tickets")] == [""]
    assert workspace.state.tombstones("acme", "mail") == []


def test_a_tenant_is_erased_with_its_keys(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    store(exchange(0))
    store(exchange(1, tenant="umbrella"), tenant="umbrella")
    sealed = workspace.lake.scan("acme", "captures").collect()["input"][0]
    workspace.state.put_provider_key("acme", "openai", b"sealed")
    assert erase(workspace, "acme", now_us=7).rows == 1
    assert workspace.lake.tenants() == ["umbrella"]
    assert workspace.state.data_keys.wrapped_keys("acme") == {}
    assert workspace.state.provider_key("acme", "openai") is None
    with pytest.raises(KeyMissing):
        workspace.vault.open(sealed, tenant="acme", namespace="tickets", pair_id="p", field="input")
    assert len(list(pairs(workspace, "umbrella", "tickets"))) == 1


def test_erasure_waits_for_a_drain_that_holds_rows_in_memory(
    workspace: Workspace, exchange: Make
) -> None:
    spool = Spool.open(workspace.home.spool, workspace.vault)
    put(spool, exchange(0))
    path = next(workspace.home.spool.glob("*.db"))
    lock = Lock.take(path.with_suffix(".drain"))
    assert lock is not None
    eraser = threading.Thread(target=erase, args=(workspace, "acme"), kwargs={"now_us": 7})
    eraser.start()
    time.sleep(0.2)
    assert eraser.is_alive()
    lock.release()
    eraser.join(20)
    assert waiting_rows(workspace.home.spool) == 0
    spool.close()


def test_a_worker_notices_that_another_process_erased_its_tenant(
    workspace: Workspace, exchange: Make
) -> None:
    """What it captures from then on is sealed with the new key, and opens."""
    spool = Spool.open(workspace.home.spool, workspace.vault)
    put(spool, exchange(0))
    elsewhere = Workspace.open(workspace.settings)
    erase(elsewhere, "acme", now_us=7)
    time.sleep(KEY_REFRESH_S)
    made = exchange(1)
    put(spool, made)
    drain(workspace.home.spool, workspace.lake)
    assert [pair.pair_id for pair in pairs(elsewhere, "acme", "tickets")] == [made.pair_id]
    elsewhere.close()
    spool.close()


def test_pairs_without_their_namespace_are_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError):
        erase(workspace, "acme", pair_ids=["p"], now_us=7)


def test_erasing_twice_finds_nothing_more(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    made = exchange(0)
    store(made)
    for expected in (1, 0):
        report = erase(workspace, "acme", namespace="tickets", pair_ids=[made.pair_id], now_us=7)
        assert report.rows == expected
