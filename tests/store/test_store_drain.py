"""Draining: each row exactly once, whatever dies in between."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store.drain import STEPS, DrainReport, drain, waiting_rows
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.spool_file import Lock
from apprentice_pipeline.vault import Vault


def fill(folder: Path, vault: Vault, records: list[tuple[Any, str]]) -> list[str]:
    """Commits records to a new spool whose worker then ends; their ids."""
    spool = Spool.open(folder, vault)
    for future in [spool.put(record, tenant=tenant) for record, tenant in records]:
        assert future.exception() is None
    spool.close()
    return [record.pair_id for record, _ in records]


def stored(lake: Lake, tenant: str = "acme") -> list[str]:
    ids: list[str] = lake.scan(tenant, "captures").collect()["pair_id"].to_list()
    return sorted(ids)


def test_every_row_arrives_and_the_empty_spool_of_a_dead_worker_goes(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    ids = fill(tmp_path / "spool", vault, [(exchange(n), "acme") for n in range(25)])
    assert drain(tmp_path / "spool", lake, max_rows=10) == DrainReport(rows=25, spools=1, removed=1)
    assert stored(lake) == sorted(ids)
    assert list((tmp_path / "spool").iterdir()) == []
    assert drain(tmp_path / "spool", lake) == DrainReport()


def test_the_spool_of_a_living_worker_stays_and_goes_on(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    """Its numbers go on too: the lake would pass over rows that began at one again."""
    folder = tmp_path / "spool"
    spool = Spool.open(folder, vault)
    for number in range(3):
        spool.put(exchange(number), tenant="acme").result(timeout=10)  # type: ignore[call-arg]
        assert drain(folder, lake).rows == 1
        assert (folder / f"{spool.spool_id}.db").exists()
    spool.close()
    assert drain(folder, lake).removed == 1
    assert len(stored(lake)) == 3


def test_rows_of_all_tenants_share_a_spool_and_part_in_the_lake(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    records = [
        (exchange(number, tenant=tenant), tenant)
        for number in range(6)
        for tenant in ("acme", "umbrella")
    ]
    fill(tmp_path / "spool", vault, records)
    assert drain(tmp_path / "spool", lake, max_rows=5).rows == 12
    assert len(stored(lake, "acme")) == len(stored(lake, "umbrella")) == 6
    assert lake.tenants() == ["acme", "umbrella"]


CRASHING_DRAINS = """
import os, sys
from pathlib import Path
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.lake import Lake
import deltalake, pyarrow

def crash(folder, step, nth):
    seen = 0

    def on_step(name):
        nonlocal seen
        seen += name == step
        if seen == nth:
            os._exit(9)

    drain(folder / "spool", Lake(str(folder / "lake")), max_rows=4, on_step=on_step)
    os._exit(0)

for folder in map(Path, sys.argv[1:]):
    child = os.fork()
    if child == 0:
        step, nth = folder.name.split(".")
        crash(folder, step, int(nth))
    print(folder.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_crash_at_any_step_neither_loses_nor_repeats_a_row(
    tmp_path: Path,
    vault: Vault,
    exchange: Callable[..., Exchange],
    child: Callable[..., subprocess.Popen[str]],
) -> None:
    """A process of its own ends, without clean-up, at the first and second time of each step."""
    expected: dict[Path, list[str]] = {}
    for folder in (tmp_path / f"{step}.{nth}" for step in STEPS for nth in (1, 2)):
        records = [(exchange(number), "acme") for number in range(9)]
        ids = fill(folder / "spool", vault, records[:6]) + fill(
            folder / "spool", vault, records[6:]
        )
        expected[folder] = sorted(ids)
    output, errors = child(CRASHING_DRAINS, *expected).communicate(timeout=120)
    assert output.splitlines() == [f"{folder.name} 9" for folder in expected], errors
    for folder, ids in expected.items():
        lake = Lake(str(folder / "lake"))
        drain(folder / "spool", lake)
        assert stored(lake) == ids, folder.name
        assert list((folder / "spool").iterdir()) == [], folder.name


def test_two_drains_at_once_move_each_row_once(
    tmp_path: Path, vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    folder = tmp_path / "spool"
    ids: list[str] = []
    for start in range(0, 60, 20):
        ids += fill(folder, vault, [(exchange(n), "acme") for n in range(start, start + 20)])
    uri = str(tmp_path / "lake")
    with ThreadPoolExecutor(4) as pool:
        reports = [pool.submit(drain, folder, Lake(uri), max_rows=7) for _ in range(4)]
    assert sum(report.result().failed for report in reports) == 0
    assert sum(report.result().rows for report in reports) == 60
    assert stored(Lake(uri)) == sorted(ids)


def test_a_spool_that_is_being_drained_is_left_to_that_drain(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    fill(tmp_path / "spool", vault, [(exchange(), "acme")])
    path = next((tmp_path / "spool").glob("*.db"))
    lock = Lock.take(path.with_suffix(".drain"))
    assert lock is not None
    assert drain(tmp_path / "spool", lake) == DrainReport()
    lock.release()
    assert drain(tmp_path / "spool", lake).rows == 1


def change(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(next(folder.glob("*.db")))) as connection, connection:
        connection.execute(statement)


def test_a_kind_of_a_newer_version_stays_and_holds_nobody_up(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    folder = tmp_path / "spool"
    fill(folder, vault, [(exchange(n), "acme") for n in range(5)])
    change(folder, "UPDATE rows SET kind = 'votes' WHERE seq = 2")
    report = drain(folder, lake, max_rows=2)
    assert (report.rows, report.unknown, report.removed) == (4, 1, 0)
    assert waiting_rows(folder) == 1
    change(folder, "UPDATE rows SET kind = 'verdicts' WHERE seq = 2")
    assert drain(folder, lake).rejected == 1


def test_a_row_that_fits_no_table_is_set_aside_and_kept(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    folder = tmp_path / "spool"
    fill(folder, vault, [(exchange(n), "acme") for n in range(5)])
    change(folder, "UPDATE rows SET facts = 'nonsense' WHERE seq = 3")
    report = drain(folder, lake)
    assert (report.rows, report.rejected, report.removed) == (4, 1, 0)
    kept = sqlite3.connect(next(folder.glob("*.db"))).execute("SELECT seq FROM rejected")
    assert kept.fetchall() == [(3,)]
    assert drain(folder, lake) == DrainReport(spools=1)


def test_a_tenant_whose_table_refuses_holds_no_other_up_and_loses_nothing(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    folder = tmp_path / "spool"
    records = [
        (exchange(number, tenant=tenant), tenant)
        for number in range(6)
        for tenant in ("acme", "umbrella")
    ]
    fill(folder, vault, records)
    obstacle = tmp_path / "lake" / "acme"
    obstacle.parent.mkdir()
    obstacle.write_text("not a folder")
    report = drain(folder, lake, max_rows=3)
    assert (report.rows, report.failed) == (6, 1)
    assert report.error
    assert len(stored(lake, "umbrella")) == 6
    obstacle.unlink()
    assert drain(folder, lake, max_rows=3).rows == 6
    assert len(stored(lake, "acme")) == 6


def test_a_damaged_spool_of_a_dead_worker_is_set_aside_and_reported(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    folder = tmp_path / "spool"
    fill(folder, vault, [(exchange(0), "acme")])
    next(folder.glob("*.db")).write_bytes(b"\x13" * 10_000)
    good = fill(folder, vault, [(exchange(1), "acme")])
    report = drain(folder, lake)
    assert (report.rows, report.damaged, report.failed) == (1, 1, 1)
    assert stored(lake) == good
    assert len(list(folder.glob("*.db.damaged-*"))) == 1
    assert drain(folder, lake) == DrainReport()


WRITER = """
import sys
from pathlib import Path
from apprentice_pipeline.records import Exchange, Usage
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.vault import MemoryDataKeys, Vault

spool = Spool.open(Path(sys.argv[1]), Vault(bytes(32), MemoryDataKeys()))
waiting = []
for number in range(10**9):
    record = Exchange(f"pair-{number}", "acme", "tickets", 1, "openai", "chat.completions", "m",
        200, True, False, "remote", {"messages": ["x" * 500]}, "yes", 1, None, Usage(), None)
    waiting.append((number, spool.put(record, tenant="acme")))
    if len(waiting) == 50:
        for done, future in waiting:
            future.result()
            print(done, flush=True)
        waiting.clear()
"""


def test_what_was_committed_before_a_kill_arrives_exactly_once(
    tmp_path: Path, lake: Lake, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """While it lives, its spool is drained too; what it reported as committed is all there."""
    folder = tmp_path / "spool"
    writer = child(WRITER, folder)
    assert writer.stdout is not None
    lines: list[str] = []
    enough, reported = threading.Event(), writer.stdout

    def read() -> None:
        for line in reported:
            lines.append(line)
            if len(lines) >= 400:
                enough.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert enough.wait(60)
    drain(folder, lake, max_rows=100)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    reader.join()
    assert drain(folder, lake).removed == 1
    ids = stored(lake)
    assert len(ids) == len(set(ids))
    acknowledged = {f"pair-{int(line)}" for line in lines if line.endswith("\n")}
    assert len(acknowledged) >= 400
    assert acknowledged <= set(ids)
    assert writer.stderr is not None
    writer.stderr.close()
    writer.stdout.close()


def test_locks_left_by_a_crash_are_swept(tmp_path: Path, lake: Lake) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    for name in ("a.lock", "b.drain"):
        (folder / name).touch()
    drain(folder, lake)
    assert list(folder.iterdir()) == []


def test_a_folder_without_spools_is_no_work(tmp_path: Path, lake: Lake) -> None:
    assert drain(tmp_path / "nothing", lake) == DrainReport()
    assert waiting_rows(tmp_path / "nothing") == 0


def test_the_lake_reports_what_a_spool_appended(
    tmp_path: Path, vault: Vault, lake: Lake, exchange: Callable[..., Exchange]
) -> None:
    fill(tmp_path / "spool", vault, [(exchange(n), "acme") for n in range(4)])
    spool_id = next((tmp_path / "spool").glob("*.db")).stem
    assert lake.transaction_version("acme", "captures", spool_id) is None
    drain(tmp_path / "spool", lake)
    assert lake.transaction_version("acme", "captures", spool_id) == 4
    lake.compact("acme")
    lake.vacuum("acme", 0)
    assert lake.transaction_version("acme", "captures", spool_id) == 4
    with pytest.raises(StoreError):
        lake.transaction_version("../acme", "captures", spool_id)
