"""The spool: what `commit` promises, and what it does when the disk does not cooperate."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import StorageFull, StoreError
from apprentice_pipeline.records import ComparisonRow, Exchange, Feedback
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.spool_writer import MAX_PENDING_ROWS
from apprentice_pipeline.vault import Vault


@pytest.fixture
def spool(tmp_path: Path, vault: Vault) -> Iterator[Spool]:
    opened = Spool.open(tmp_path / "spool", vault)
    yield opened
    opened.close()


def rows_on_disk(folder: Path) -> int:
    return sum(
        sqlite3.connect(file).execute("SELECT count(*) FROM rows").fetchone()[0]
        for file in folder.glob("*.db")
    )


async def test_a_committed_record_is_on_the_disk(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    await spool.commit(exchange(), tenant="acme")
    assert waiting_rows(tmp_path / "spool") == 1
    assert spool.pending == 0


async def test_every_kind_of_record_is_taken(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange], lake: Lake
) -> None:
    made = exchange()
    at_us = made.created_at_us
    comparison = ComparisonRow(
        made.pair_id, "tickets", at_us, 1, "serve", 0.5, 1.0, True, True, None, 0.1, 5, 6
    )
    feedback = Feedback(made.pair_id, "tickets", at_us, "edit", "better")
    await asyncio.gather(
        *(spool.commit(record, tenant="acme") for record in (made, comparison, feedback))
    )
    assert drain(tmp_path / "spool", lake).rows == 3


def test_without_an_event_loop_the_future_is_a_threads_own(
    spool: Spool, exchange: Callable[..., Exchange]
) -> None:
    future = spool.put(exchange(), tenant="acme")
    assert isinstance(future, Future)
    assert future.result(timeout=10) is None
    assert not future.cancel()


def test_nothing_readable_reaches_the_disk(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    canary = "canary-91c2"
    future = spool.put(
        exchange(output=canary, input={"messages": [canary], "parameters": {}}), tenant="acme"
    )
    assert isinstance(future, Future)
    future.result(timeout=10)
    for file in (tmp_path / "spool").iterdir():
        assert canary.encode() not in file.read_bytes()


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often another thread wakes it."""

    wakes = 0

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> Any:
        self.wakes += 1
        return super().call_soon_threadsafe(*arguments, **options)


def test_what_gathered_is_committed_at_once_and_wakes_the_loop_once(
    spool: Spool, exchange: Callable[..., Exchange]
) -> None:
    async def many() -> None:
        await asyncio.gather(*(spool.commit(exchange(n), tenant="acme") for n in range(500)))

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(many())
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        assert spool.commits < 100
        assert loop.wakes <= spool.commits + 2


async def test_a_record_that_is_no_json_fails_alone(
    spool: Spool, exchange: Callable[..., Exchange]
) -> None:
    outcomes = await asyncio.gather(
        spool.commit(exchange(0), tenant="acme"),
        spool.commit(exchange(1, output={1, 2}), tenant="acme"),
        spool.commit(exchange(2), tenant="acme"),
        return_exceptions=True,
    )
    assert outcomes[0] is None
    assert isinstance(outcomes[1], StoreError)
    assert outcomes[2] is None
    assert spool.failed == 1


async def test_giving_up_waiting_does_not_take_the_record_back(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    waiting = asyncio.ensure_future(spool.commit(exchange(), tenant="acme"))
    await asyncio.sleep(0)
    waiting.cancel()
    await spool.commit(exchange(1), tenant="acme")
    assert waiting_rows(tmp_path / "spool") == 2


async def test_a_loop_that_closed_meanwhile_does_not_stop_the_writer(
    spool: Spool, exchange: Callable[..., Exchange]
) -> None:
    def abandon() -> None:
        async def put() -> None:
            spool.put(exchange(1), tenant="acme")

        asyncio.run(put())

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()
    await spool.commit(exchange(2), tenant="acme")


async def test_what_waits_is_bounded(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    blocker = sqlite3.connect(tmp_path / "spool" / f"{spool.spool_id}.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    record = exchange()
    futures = [spool.put(record, tenant="acme") for _ in range(MAX_PENDING_ROWS)]
    with pytest.raises(StoreError, match="wait for the disk"):
        await spool.commit(record, tenant="acme")
    blocker.execute("ROLLBACK")
    blocker.close()
    await asyncio.gather(*futures)
    assert rows_on_disk(tmp_path / "spool") == MAX_PENDING_ROWS
    await spool.commit(record, tenant="acme")


def test_closing_commits_what_waits_and_refuses_more(
    tmp_path: Path, vault: Vault, exchange: Callable[..., Exchange]
) -> None:
    spool = Spool.open(tmp_path / "spool", vault)
    futures = [spool.put(exchange(number), tenant="acme") for number in range(50)]
    spool.close()
    spool.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert waiting_rows(tmp_path / "spool") == 50
    refused = spool.put(exchange(), tenant="acme")
    assert isinstance(refused.exception(), StoreError)


async def test_a_damaged_file_is_set_aside_and_capture_goes_on(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange], lake: Lake
) -> None:
    first = spool.spool_id
    folder = tmp_path / "spool"
    spool._file_writer.close()  # what an I/O error leads to
    (folder / f"{first}.db").write_bytes(b"\x99" * 8_192)
    await spool.commit(exchange(), tenant="acme")
    assert spool.damaged == 1
    assert spool.spool_id != first
    assert list(folder.glob(f"{first}.db.damaged-*"))
    assert drain(folder, lake).rows == 1


async def test_a_removed_file_is_replaced_under_a_new_id(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    """Under the old id its rows would have numbers that the lake passes over."""
    (tmp_path / "spool" / f"{spool.spool_id}.db").unlink()
    first = spool.spool_id
    await spool.commit(exchange(), tenant="acme")
    assert spool.spool_id != first
    assert waiting_rows(tmp_path / "spool") == 1


async def test_a_folder_that_is_no_folder_fails_its_records_alone(
    spool: Spool, tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    """However often it is tried; the next one after that is kept."""
    folder = tmp_path / "spool"
    folder.rename(tmp_path / "moved")
    folder.touch()
    for number in range(3):
        with pytest.raises(StoreError):
            await asyncio.wait_for(spool.commit(exchange(number), tenant="acme"), 30)
    folder.unlink()
    await asyncio.wait_for(spool.commit(exchange(3), tenant="acme"), 30)
    assert waiting_rows(folder) == 1
    assert spool.damaged == 1


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from apprentice_pipeline.errors import StorageFull
from apprentice_pipeline.records import Exchange, Usage
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.vault import MemoryDataKeys, Vault
import os

folder, limited = Path(sys.argv[1]), sys.argv[2] == "limit"

def exchange(number):
    text = os.urandom(20_000).hex()
    return Exchange(f"pair-{number}", "acme", "tickets", 1, "openai", "chat.completions", "m", 200,
        True, False, "remote", {"messages": [text]}, "yes", 1, None, Usage(), None)

spool = Spool.open(folder, Vault(bytes(32), MemoryDataKeys()))
ballast = folder / "ballast"
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
else:
    ballast.write_bytes(bytes(1_700_000))
kept, full = [], 0
for number in range(100):
    try:
        spool.put(exchange(number), tenant="acme").result(timeout=20)
        kept.append(number)
    except StorageFull:
        full += 1
        if full == 3:
            break
print("full", full, "kept", len(kept))
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    ballast.unlink()
spool.put(exchange(1000), tenant="acme").result(timeout=20)
print("ids", *kept, 1000)
spool.close()
"""


@pytest.fixture(params=["disk", "limit"])
def small_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder on a disk of 3 MB; a limit on file sizes as well, and where nothing mounts."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    if request.param == "limit" or subprocess.run(mount, capture_output=True).returncode:
        yield folder / "spool", "limit"
        return
    (folder / "spool").mkdir()
    yield folder / "spool", "disk"
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_reported_and_capture_resumes_by_itself(
    small_folder: tuple[Path, str], child: Callable[..., subprocess.Popen[str]], lake: Lake
) -> None:
    folder, kind = small_folder
    output, errors = child(FILL_THE_DISK, folder, kind).communicate(timeout=60)
    assert "full 3" in output, errors
    kept = output.split("ids")[1].split()
    assert drain(folder, lake).failed == 0
    stored = lake.scan("acme", "captures").collect()["pair_id"].to_list()
    assert sorted(stored) == sorted(f"pair-{number}" for number in kept)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, vault: Vault) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(StoreError) as raised:
        Spool.open(tmp_path / "spool", vault)
    assert raised.value.remedy
    assert not isinstance(raised.value, StorageFull)


def test_a_spool_is_readable_by_its_owner_only(spool: Spool, tmp_path: Path) -> None:
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "spool").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
