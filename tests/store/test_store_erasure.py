"""Erasure: gone from every place, with a tombstone."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from apprentice_pipeline.errors import KeyMissing, UsageError
from apprentice_pipeline.records import Exchange, Feedback
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages import export
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.erased import Erased
from apprentice_pipeline.store.erasure import erase
from apprentice_pipeline.store.pairs import pair_counts, pairs
from apprentice_pipeline.store.sealing import SealedRow
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.spool_file import Lock
from apprentice_pipeline.store.spool_writer import KEY_REFRESH_S
from apprentice_pipeline.store.tombstones import Tombstone
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


def test_a_tenant_that_is_erased_while_its_traffic_goes_on_stays_readable(
    workspace: Workspace, exchange: Make
) -> None:
    """A worker seals with the forgotten key until it has heard of it: those rows are dropped."""
    drained = partial(drain, workspace.home.spool, workspace.lake)
    spool = Spool.open(workspace.home.spool, workspace.vault)
    put(spool, exchange(0))
    with closing(Workspace.open(workspace.settings)) as elsewhere:
        erase(elsewhere, "acme", now_us=7)
        put(spool, exchange(1))
        assert drained(erased_of=elsewhere.state.erased_of).erased == 1
        put(spool, exchange(2))
        assert drained().rows == 1  # as if it had looked just before the erasure
        time.sleep(KEY_REFRESH_S)
        made = exchange(3)
        put(spool, made)
        assert drained(erased_of=elsewhere.state.erased_of).rows == 1
        passed_over: list[str] = []
        found = pairs(elsewhere, "acme", "tickets", on_erased=passed_over.append)
        assert [pair.pair_id for pair in found] == [made.pair_id]
        assert len(passed_over) == 1
        assert elsewhere.lake.tenants() == ["acme"]
        written = export.write(elsewhere, export.Request("acme", "tickets"), io.BytesIO())
        assert (written.rows, written.erased) == (1, 1)
        assert "1 rows whose key was erased" in written.note()
    spool.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Workspace, Workspace]]:
    """Two homes, each with spools of its own, over one lake and one state database."""
    store = {"lake_uri": str(tmp_path / "lake"), "state_url": f"sqlite:///{tmp_path / 'state.db'}"}
    file = tmp_path / "apprentice.yaml"
    file.write_text(f"store: {json.dumps(store)}\n")
    opened = [
        Workspace.open(
            load_settings(
                {
                    "APPRENTICE_HOME": str(tmp_path / name),
                    "APPRENTICE_CONFIG": str(file),
                    "APPRENTICE_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
                }
            )
        )
        for name in ("one", "two")
    ]
    yield opened[0], opened[1]
    for each in opened:
        each.close()


SCOPES: dict[str, tuple[str | None, bool]] = {
    "pair": ("tickets", True),
    "namespace": ("tickets", False),
    "tenant": (None, False),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_what_another_node_still_has_in_its_spool_does_not_come_back(
    nodes: tuple[Workspace, Workspace], exchange: Make, scope: str
) -> None:
    one, two = nodes
    namespace, by_id = SCOPES[scope]
    erased, mail = exchange(0), exchange(1, namespace="mail")
    spool = Spool.open(two.home.spool, two.vault)
    put(spool, erased, mail)
    at_us = erased.created_at_us + 3_600_000_000
    ids = [erased.pair_id] if by_id else None
    assert erase(one, "acme", namespace=namespace, pair_ids=ids, now_us=at_us).rows == 0
    two.vault.refresh("acme")
    newer = exchange(500)
    assert newer.created_at_us > at_us
    put(spool, newer)
    report = drain(two.home.spool, two.lake, erased_of=two.state.erased_of)
    spool.close()
    assert (report.rows, report.erased) == ((1, 2) if scope == "tenant" else (2, 1))
    assert [pair.pair_id for pair in pairs(one, "acme", "tickets")] == [newer.pair_id]
    assert len(list(pairs(one, "acme", "mail"))) == (0 if scope == "tenant" else 1)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("step", ["version-read", "appended"])
def test_an_erasure_in_the_midst_of_another_nodes_drain_misses_nothing(
    nodes: tuple[Workspace, Workspace], exchange: Make, scope: str, step: str
) -> None:
    one, two = nodes
    namespace, by_id = SCOPES[scope]
    made = exchange(0)
    at_us = made.created_at_us + 1
    ids = [made.pair_id] if by_id else None

    def meanwhile(done: str) -> None:
        if done == step:
            erase(one, "acme", namespace=namespace, pair_ids=ids, now_us=at_us)

    spool = Spool.open(two.home.spool, two.vault)
    put(spool, made)
    drain(two.home.spool, two.lake, erased_of=two.state.erased_of, on_step=meanwhile)
    spool.close()
    assert two.lake.scan("acme", "captures").collect().height == 0
    assert waiting_rows(two.home.spool) == 0


def test_no_export_shows_a_pair_that_another_nodes_drain_is_about_to_take_back(
    nodes: tuple[Workspace, Workspace], exchange: Make
) -> None:
    """It was erased, all of it, between the drain's first look and its append."""
    one, two = nodes
    made, other = exchange(0), exchange(1)
    seen: list[str] = []

    def look(tenant: str, rows: Sequence[SealedRow]) -> Erased:
        found = two.state.erased_of(tenant, rows)
        ids = [made.pair_id]
        erase(one, "acme", namespace="tickets", pair_ids=ids, now_us=made.created_at_us + 1)
        return found

    def meanwhile(done: str) -> None:
        if done == "appended":
            assert one.lake.scan("acme", "captures").collect().height == 2
            seen.extend(pair.pair_id for pair in pairs(one, "acme", "tickets"))

    spool = Spool.open(two.home.spool, two.vault)
    put(spool, made, other)
    drain(two.home.spool, two.lake, erased_of=look, on_step=meanwhile)
    spool.close()
    assert seen == [other.pair_id]
    assert two.lake.scan("acme", "captures").collect()["pair_id"].to_list() == [other.pair_id]


def test_a_drain_that_dies_before_it_has_looked_again_looks_the_next_time(
    nodes: tuple[Workspace, Workspace], exchange: Make
) -> None:
    """Its row is in the lake, and was erased between its first look and the append."""
    one, two = nodes
    made = exchange(0)

    def erased_then_dead(done: str) -> None:
        if done == "appended":
            stone = Tombstone("acme", "tickets", made.pair_id, 7, 0)
            one.state.add_tombstones([stone])
            raise KeyboardInterrupt

    spool = Spool.open(two.home.spool, two.vault)
    put(spool, made)
    with pytest.raises(KeyboardInterrupt):
        drain(two.home.spool, two.lake, erased_of=two.state.erased_of, on_step=erased_then_dead)
    assert two.lake.scan("acme", "captures").collect().height == 1
    drain(two.home.spool, two.lake, erased_of=two.state.erased_of)
    spool.close()
    assert two.lake.scan("acme", "captures").collect().height == 0


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
