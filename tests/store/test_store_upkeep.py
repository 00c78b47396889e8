"""Readers at work while the lake is compacted, vacuumed and erased from."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from apprentice_pipeline.records import Exchange, Feedback, Verdict
from apprentice_pipeline.store import delta
from apprentice_pipeline.store.erasure import erase
from apprentice_pipeline.store.pairs import label_rows, pair_counts, pairs
from apprentice_pipeline.store.workspace import Workspace

COMPACT = """
import os, sys
from apprentice_pipeline.store.lake import Lake

lake = Lake(sys.argv[1])
parent = os.getppid()
while not os.path.exists(sys.argv[2]) and os.getppid() == parent:
    lake.compact("acme")
"""
Make = Callable[..., Exchange]
Store = Callable[..., None]
TENANT, NAMESPACE = "acme", "tickets"
READ_SQL = "SELECT pair_id FROM captures WHERE namespace = $namespace"


def read_labels(workspace: Workspace) -> set[str]:
    return {row["pair_id"] for row in label_rows(workspace, TENANT, NAMESPACE)}


def read_sql(workspace: Workspace) -> set[str]:
    rows = workspace.lake.sql(TENANT, READ_SQL, namespace=NAMESPACE)
    return {row["pair_id"] for row in rows}


def count_pairs(workspace: Workspace) -> set[str]:
    """Only that it does not fail: a count names nobody."""
    pair_counts(workspace, TENANT, NAMESPACE)
    return set()


READERS = {"labels": read_labels, "sql": read_sql, "counts": count_pairs}


@contextmanager
def reading(
    workspace: Workspace, read: Callable[[Workspace], set[str]], seen: list[set[str]]
) -> Iterator[None]:
    """Reads in a loop beside the block, at least once before it and once after."""
    stopping, first = threading.Event(), threading.Event()

    def loop() -> None:
        try:
            while not stopping.is_set():
                seen.append(read(workspace))
                first.set()
        finally:
            first.set()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(loop)
        first.wait(60)
        try:
            yield
        finally:
            stopping.set()
        reader.result(60)
    seen.append(read(workspace))


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_fails_or_sees_half_an_erasure_during_upkeep(
    reader: str, workspace: Workspace, store: Store, exchange: Make
) -> None:
    """Each erasure takes a couple of pairs that lie in different files; what stays is always
    seen."""
    stays = [exchange(number) for number in range(6)]
    couples = [(exchange(100 + n), exchange(3_000 + n)) for n in range(3)]
    for each in (*stays, *(one for couple in couples for one in couple)):
        store(each)
    store(*(Verdict(each.pair_id, NAMESPACE, 1, "v", "verified", 1.0, 3, "") for each in stays))
    seen: list[set[str]] = []
    with reading(workspace, READERS[reader], seen):
        for couple in couples:
            ids = [each.pair_id for each in couple]
            erase(workspace, TENANT, namespace=NAMESPACE, pair_ids=ids, now_us=7)
            store(Feedback(stays[0].pair_id, NAMESPACE, 1, "approve", None))
            workspace.lake.compact(TENANT)
            workspace.lake.vacuum(TENANT)
    if reader == "counts":
        return
    kept = {each.pair_id for each in stays}
    assert seen[-1] == kept
    for ids in seen:
        assert kept <= ids
        for first, second in couples:
            assert (first.pair_id in ids) == (second.pair_id in ids)


def test_an_export_goes_on_without_the_pairs_that_are_erased_while_it_runs(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """Its next batch would come from files that the erasure has removed."""
    made = [exchange(number) for number in range(8)]
    for each in made:
        store(each)
    export = pairs(workspace, TENANT, NAMESPACE, batch=2)
    ids = [next(export).pair_id]
    gone = [made[0].pair_id, made[3].pair_id, made[6].pair_id]
    workspace.lake.compact(TENANT)
    erase(workspace, TENANT, namespace=NAMESPACE, pair_ids=gone, now_us=7)
    ids += [pair.pair_id for pair in export]
    assert ids == [each.pair_id for at, each in enumerate(made) if at not in (3, 6)]


def test_an_export_of_a_tenant_that_is_erased_meanwhile_ends(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    for number in range(6):
        store(exchange(number))
    export = pairs(workspace, TENANT, NAMESPACE, batch=2)
    next(export)
    erase(workspace, TENANT, now_us=7)
    assert list(export) == []
    assert read_labels(workspace) == read_sql(workspace) == set()


@pytest.mark.parametrize("steps", range(1, 4))
def test_an_export_goes_on_when_a_vacuum_takes_the_files_it_would_read_next(
    steps: int, workspace: Workspace, store: Store, exchange: Make
) -> None:
    """At once, where in production they stay for a week. What comes meanwhile is not asked for."""
    made = [exchange(number) for number in range(12)]
    for each in made:
        store(each, Verdict(each.pair_id, NAMESPACE, 1, "v", "verified", 1.0, 3, ""))
    export = pairs(workspace, TENANT, NAMESPACE, batch=3)
    found = [next(export) for _ in range(3 * steps)]
    assert workspace.lake.compact(TENANT) > 0
    assert workspace.lake.vacuum(TENANT, 0) > 0
    store(exchange(20), exchange(2_000))
    found += export
    assert [pair.pair_id for pair in found] == [each.pair_id for each in made]
    assert {pair.verdict for pair in found} == {"verified"}


def test_a_vacuum_that_an_erasure_overtakes_begins_again(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """Fewer erasures than it tries: that it is overtaken each time cannot be."""
    made = [exchange(number) for number in range(15)]
    for each in made:
        store(each)
    uri = str(workspace.home.lake / TENANT / "captures")

    def erase_all() -> None:
        for each in made:
            delta.delete(uri, {}, f"pair_id = '{each.pair_id}'")

    with ThreadPoolExecutor(1) as pool:
        erasing = pool.submit(erase_all)
        while not erasing.done():
            workspace.lake.vacuum(TENANT, 0)
        erasing.result()
    workspace.lake.vacuum(TENANT, 0)
    assert read_labels(workspace) == set()
    assert not [*(workspace.home.lake / TENANT).glob("captures/**/*.parquet")]


def test_compactions_at_once_keep_every_row_once(
    workspace: Workspace,
    store: Store,
    exchange: Make,
    child: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """By processes of their own, as a server's round and Dagster's schedule are."""
    stop = tmp_path / "stop"
    compacting = [child(COMPACT, workspace.home.lake, stop) for _ in range(2)]
    made = [exchange(number) for number in range(40)]
    store(made[0])
    store(made[1])
    while len(workspace.lake.files(TENANT, "captures", NAMESPACE)[1]) > 1:
        assert all(process.poll() is None for process in compacting)
        time.sleep(0.01)
    for each in made[2:]:
        store(each)
    stop.touch()
    for process in compacting:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    found = workspace.lake.scan(TENANT, "captures").collect()["pair_id"].to_list()
    assert sorted(found) == sorted(each.pair_id for each in made)
