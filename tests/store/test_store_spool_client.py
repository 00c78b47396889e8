"""A spool whose writer is a process: the spool's promises, kept through that process's death."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import select
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import CannotOpen, StorageFull, StoreError
from apprentice_pipeline.reading.spools import drain_spools
from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store import spool_process
from apprentice_pipeline.store.arrivals import settle
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.erasure import erase
from apprentice_pipeline.store.sealing import PlainRow, plain_row
from apprentice_pipeline.store.spool_client import PROGRAM, SpoolClient
from apprentice_pipeline.store.spool_file import Lock, claim
from apprentice_pipeline.store.spool_frames import (
    AcknowledgementReader,
    NumberedRow,
    RecordReader,
    Written,
    acknowledgement,
    record_frame,
)
from apprentice_pipeline.store.spool_writer import MAX_PENDING_ROWS, SpoolWriter
from apprentice_pipeline.store.staging import Staging
from apprentice_pipeline.store.unread import UNREAD
from apprentice_pipeline.store.workspace import Workspace

TENANT = "acme"


@pytest.fixture
def lost() -> list[str]:
    """One entry for each time that the writer was found dead."""
    return []


@pytest.fixture
def spool(workspace: Workspace, lost: list[str]) -> Iterator[SpoolClient]:
    opened = SpoolClient.open(workspace, lambda: lost.append("lost"))
    yield opened
    opened.close()


def stored(workspace: Workspace) -> list[str]:
    """The pair ids of the lake, after a drain."""
    assert drain(workspace.home.spool, workspace.lake).failed == 0
    return workspace.lake.scan(TENANT, "captures").collect()["pair_id"].to_list()


async def test_a_committed_record_is_on_the_disk_and_sealed(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    canary = "canary-7f31"
    made = exchange(output=canary)
    await spool.commit(made, tenant=TENANT)
    assert spool.pending == 0
    assert spool.writer_pid is not None
    assert waiting_rows(workspace.home.spool) == 1
    for file in workspace.home.spool.iterdir():
        assert canary.encode() not in file.read_bytes()
    assert stored(workspace) == [made.pair_id]


async def test_a_large_record_and_many_small_ones_arrive_whole(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    large = exchange(0, output="x" * 9_000_000)
    records = [large, *(exchange(number) for number in range(1, 400))]
    await asyncio.gather(*(spool.commit(record, tenant=TENANT) for record in records))
    assert sorted(stored(workspace)) == sorted(record.pair_id for record in records)


async def test_a_record_that_cannot_be_sealed_fails_alone(
    spool: SpoolClient, exchange: Callable[..., Exchange], workspace: Workspace
) -> None:
    good, no_json = exchange(0), exchange(1, output={"a set": {1}})
    outcomes = await asyncio.gather(
        *(spool.commit(record, tenant=TENANT) for record in (good, no_json)),
        return_exceptions=True,
    )
    assert outcomes[0] is None
    assert isinstance(outcomes[1], StoreError)
    assert spool.failed == 1
    assert stored(workspace) == [good.pair_id]


async def test_nothing_is_lost_or_doubled_when_the_writer_is_killed_at_any_moment(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    acknowledged: list[str] = []
    for turn in range(6):
        lost: list[str] = []
        spool = SpoolClient.open(workspace, lambda lost=lost: lost.append("lost"))  # type: ignore[misc]
        records = [exchange(turn * 1_000 + number) for number in range(400)]
        waiting = [spool.put(record, tenant=TENANT) for record in records[:300]]
        await asyncio.wait(waiting[: turn * 60 + 1], return_when=asyncio.FIRST_COMPLETED)
        assert spool.writer_pid is not None
        os.kill(spool.writer_pid, signal.SIGKILL)
        waiting += [spool.put(record, tenant=TENANT) for record in records[300:]]
        await asyncio.wait_for(asyncio.gather(*waiting), 60)  # type: ignore[arg-type]
        acknowledged += [record.pair_id for record in records]
        await asyncio.to_thread(spool.close)
        assert lost == ["lost"]
    assert sorted(stored(workspace)) == sorted(acknowledged)


async def until(condition: Callable[[], object]) -> None:
    """Waits until it holds."""
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never held")


async def test_after_every_death_another_writer_comes_and_nothing_is_lost_or_doubled(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange], lost: list[str]
) -> None:
    """Records come all the time: before, while the thread writes, while it hands back, after."""
    counts: Counter[str] = Counter()
    spool.on_counts = lambda told: counts.update(told.get(("", ""), {}))
    numbers, waiting, stopping = itertools.count(), list[Any](), asyncio.Event()
    ids: list[str] = []

    async def traffic() -> None:
        while not stopping.is_set():
            record = exchange(next(numbers))
            ids.append(record.pair_id)
            waiting.append(spool.put(record, tenant=TENANT))
            await asyncio.sleep(0.001)

    running, writers = asyncio.create_task(traffic()), set[int | None]([None])
    for turn in range(4):
        await until(lambda: spool.writer_pid not in writers)
        pid = spool.writer_pid
        assert pid is not None
        writers.add(pid)
        await asyncio.sleep(0.02 * turn)
        os.kill(pid, signal.SIGKILL)
    await until(lambda: spool.writer_pid not in writers)
    stopping.set()
    await running
    await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert spool.pending == spool.failed == 0
    await until(lambda: len(lost) == 4)
    assert counts == {"spool_writers_lost": 4, "spool_writers_started": 4}
    assert sorted(stored(workspace)) == sorted(ids)


@pytest.mark.parametrize("moment", ["thread", "ready", "leaving"])
async def test_closing_at_any_moment_of_a_return_keeps_what_waits(
    moment: str, workspace: Workspace, exchange: Callable[..., Exchange], lost: list[str]
) -> None:
    """And leaves no process: the spool's lock is free, so a drain removes the empty file."""
    spool = SpoolClient.open(workspace, lambda: lost.append("lost"))
    await spool.commit(exchange(0), tenant=TENANT)
    assert spool.writer_pid is not None
    os.kill(spool.writer_pid, signal.SIGKILL)
    await until(lambda: spool._thread is not None)
    if moment != "thread":
        assert spool._start is not None
        spool._start._thread.join(60)  # without the event loop, which would hand back at once
    if moment == "leaving":
        spool._hand_back()
    for number in range(1, 30):
        spool.put(exchange(number), tenant=TENANT)
    coming = spool._next
    spool.close()
    assert coming is None or coming.process.poll() is not None
    assert len(stored(workspace)) == 30
    assert not list(workspace.home.spool.iterdir())


async def test_what_a_dead_writer_had_taken_in_does_not_wait_for_the_next_record(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange], lost: list[str]
) -> None:
    """It was kept from making rows of it, and no call comes any more."""
    assert spool.writer_pid is not None
    records = [exchange(number) for number in range(3)]
    await spool.commit(records[0], tenant=TENANT)
    await until(lambda: settle(workspace.home.spool / f"{spool.spool_id}.db", 0))
    blocker = sqlite3.connect(
        workspace.home.spool / f"{spool.spool_id}.db", isolation_level=None, timeout=60
    )
    blocker.execute("BEGIN IMMEDIATE")
    for record in records[1:]:
        await spool.commit(record, tenant=TENANT)
    os.kill(spool.writer_pid, signal.SIGKILL)
    await until(lambda: lost)
    blocker.execute("ROLLBACK")
    blocker.close()
    await until(lambda: spool.writer_pid)
    report = await asyncio.to_thread(
        erase, workspace, TENANT, namespace=records[0].namespace, now_us=1 << 60
    )
    assert report.spool_rows == 3


async def test_what_stood_in_the_log_of_a_spool_that_somebody_deleted_is_kept_at_once(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """Its writer finds out when it makes rows of it."""
    record = exchange()
    path = workspace.home.spool / f"{spool.spool_id}.db"
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    await spool.commit(record, tenant=TENANT)
    path.unlink()
    blocker.close()
    await until(lambda: f"{spool.spool_id}.db" != path.name and spool.writer_pid)
    assert drain_spools(workspace).failed == 0
    assert stored(workspace) == [record.pair_id]


async def test_a_writer_that_does_not_come_up_is_tried_again_while_the_thread_writes(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    spool = SpoolClient.open(workspace)
    await spool.commit(exchange(0), tenant=TENANT)
    spool._program = "apprentice_pipeline.no_such_writer"
    assert spool.writer_pid is not None
    os.kill(spool.writer_pid, signal.SIGKILL)
    await until(lambda: spool._start is not None)
    for number in range(1, 40):
        await spool.commit(exchange(number), tenant=TENANT)
        await asyncio.sleep(0.05)
    assert spool.writer_pid is None
    spool._program = PROGRAM
    await until(lambda: spool.writer_pid)
    await spool.commit(exchange(40), tenant=TENANT)
    spool.close()
    assert len(stored(workspace)) == 41


async def test_rows_drained_before_the_writer_died_are_not_written_again(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """The worker may not have read the acknowledgement yet when a drain has trimmed the row."""
    record, pid = exchange(), spool.writer_pid
    assert pid is not None
    waiter = spool.put(record, tenant=TENANT)
    spool._send()
    while not await asyncio.to_thread(waiting_rows, workspace.home.spool):
        await asyncio.to_thread(os.sched_yield)
        if waiter.done():
            break
    assert stored(workspace) == [record.pair_id]
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(spool.commit(exchange(1), tenant=TENANT), 60)
    assert len(stored(workspace)) == 2


async def test_the_writer_commits_what_a_killed_worker_had_handed_over(
    workspace: Workspace,
    exchange: Callable[..., Exchange],
    child: Callable[..., subprocess.Popen[str]],
) -> None:
    worker = child(WORKER, str(workspace.home.root))
    assert worker.stdout is not None
    told = await asyncio.to_thread(worker.stdout.readline)
    pair_ids = told.split()
    worker.kill()
    await asyncio.to_thread(worker.communicate)
    assert len(pair_ids) == 200
    for _ in range(600):
        if not any(workspace.home.spool.glob("*.db")) or len(stored(workspace)) >= 200:
            break
        await asyncio.sleep(0.1)
    assert sorted(stored(workspace)) == sorted(pair_ids)


async def test_what_a_worker_handed_over_is_kept_though_it_died_with_acknowledgements_unread(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """Then its socket fails with a reset before it ends."""
    spool_id, lock = claim(workspace.home.spool)
    path = workspace.home.spool / f"{spool_id}.db"
    writer = SpoolWriter(path, workspace.vault)
    writer.create()
    staging = Staging(path, workspace.vault, writer, ahead=True)
    ours, theirs = socket.socketpair()
    rows = [NumberedRow(number, plain_row(exchange(number), TENANT)) for number in range(1, 101)]
    ours.sendall(b"".join(map(record_frame, rows)))
    theirs.sendall(acknowledgement(rows[:1], Written([None], {})))
    ours.close()
    with theirs:
        spool_process._serve(theirs, staging)
    staging.close()
    writer.close()
    lock.release()
    assert len(stored(workspace)) == 100


WORKER = """
import asyncio, sys, time
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.records import Exchange, Usage
from apprentice_pipeline.store.spool_client import SpoolClient
from apprentice_pipeline.store.unread import UNREAD
from apprentice_pipeline.store.workspace import Workspace

async def main():
    spool = SpoolClient.open(Workspace.open(load_settings({"APPRENTICE_HOME": sys.argv[1]})))
    ids = [f"pair-{number}" for number in range(200)]
    for pair_id in ids:
        spool.put(Exchange(pair_id, "acme", "tickets", 1, "openai", "chat.completions", "m", 200,
            True, False, "remote", {"messages": ["?"]}, "yes", 1, None, Usage(), None),
            tenant="acme")
    spool._send()
    assert not spool._unsent
    print(*ids, flush=True)
    time.sleep(60)

asyncio.run(main())
"""


async def test_a_spool_is_not_removed_while_its_writer_still_commits(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    await spool.commit(exchange(), tenant=TENANT)
    assert drain(workspace.home.spool, workspace.lake).removed == 0
    assert Lock.take(workspace.home.spool / f"{spool.spool_id}.lock") is None


async def test_a_removed_file_is_replaced_under_a_new_id(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    first = spool.spool_id
    (workspace.home.spool / f"{first}.db").unlink()
    await asyncio.wait_for(spool.commit(exchange(), tenant=TENANT), 60)
    assert spool.spool_id != first
    assert len(stored(workspace)) == 1


async def test_what_waits_is_bounded(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    file = workspace.home.spool / f"{spool.spool_id}.db"
    blocker = sqlite3.connect(file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    record = exchange()
    waiting = [spool.put(record, tenant=TENANT) for _ in range(MAX_PENDING_ROWS)]
    with pytest.raises(StoreError, match="wait for the disk"):
        await spool.commit(record, tenant=TENANT)
    blocker.execute("ROLLBACK")
    blocker.close()
    await asyncio.wait_for(asyncio.gather(*waiting), 60)  # type: ignore[arg-type]
    assert waiting_rows(workspace.home.spool) == MAX_PENDING_ROWS


def test_closing_commits_what_waits(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    spool = SpoolClient.open(workspace)

    async def put() -> None:
        for number in range(50):
            spool.put(exchange(number), tenant=TENANT)

    async def put_late() -> None:
        await spool.commit(exchange(), tenant=TENANT)

    asyncio.run(put())
    spool.close()
    spool.close()
    assert waiting_rows(workspace.home.spool) == 50
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(put_late())


def test_what_was_acknowledged_unread_is_counted_before_it_closes(spool: SpoolClient) -> None:
    """This writer has no reader: whatever is unread counts as lost."""
    counts: Counter[str] = Counter()
    spool.on_counts = lambda told: counts.update(told.get((TENANT, "tickets"), {}))
    rows = [PlainRow(UNREAD, TENANT, "tickets", f"p{at}", b"{}", b"?", b"!") for at in range(300)]

    async def put() -> None:
        await asyncio.gather(*(spool.put_row(row) for row in rows))

    asyncio.run(put())
    spool.close()
    assert counts == {"lost": 300, "at_risk": 300}


async def test_what_a_writer_told_before_it_died_is_heard_though_its_end_was_noticed_in_sending(
    spool: SpoolClient,
) -> None:
    """The loop had no time to read in between. This writer counts what it cannot read as lost."""
    counts: Counter[str] = Counter()
    spool.on_counts = lambda told: counts.update(told.get((TENANT, "tickets"), {}))
    await spool.put_row(PlainRow(UNREAD, TENANT, "tickets", "p1", b"{}", b"?", b"!"))  # type: ignore[misc]
    assert spool._channel is not None
    assert select.select([spool._channel], [], [], 60)[0]
    assert not counts
    spool._writer.kill()
    spool._writer.wait()
    waiter = spool.put_row(PlainRow(UNREAD, TENANT, "tickets", "p2", b"{}", b"?", b"!"))
    spool._send()
    with pytest.raises(StoreError):
        await asyncio.wait_for(cast(Any, waiter), 60)
    assert counts == {"lost": 1, "at_risk": 1}


async def test_telling_of_a_dead_writer_holds_the_event_loop_up_for_nothing(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """The state database, which the alert goes to, may be slow just then."""
    told = threading.Event()
    spool = SpoolClient.open(workspace, lambda: told.wait(30))
    await spool.commit(exchange(0), tenant=TENANT)
    assert spool.writer_pid is not None
    os.kill(spool.writer_pid, signal.SIGKILL)
    records = [exchange(number) for number in range(1, 50)]
    longest_s = 0.0
    waiting = asyncio.gather(*(spool.commit(record, tenant=TENANT) for record in records))
    while not waiting.done():
        began = time.monotonic()
        await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.monotonic() - began)
    await waiting
    assert longest_s < 5
    told.set()
    await asyncio.to_thread(spool.close)
    assert len(stored(workspace)) == 50


def test_what_waits_in_the_socket_is_one_batch_and_its_end_comes_after_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sent = random.Random(7).randbytes(3 * (1 << 16))
        incoming = spool_process.Incoming(theirs)
        for wait_s in (0, None):  # as between two steps, and as when there is nothing to do
            ours.sendall(sent)
            assert incoming.next(wait_s) == sent
        assert incoming.next(0) is None
        ours.sendall(sent)
        ours.close()
        assert incoming.next(0) == sent
        assert incoming.next(0) == b""


parts = st.none() | st.binary(max_size=50)
names = st.text(max_size=8)
facts = st.binary(max_size=40)
rows = st.builds(PlainRow, names, names, names, names, facts, parts, parts, st.none())


@given(st.lists(rows, max_size=8), st.integers(1, 60))
def test_records_arrive_equal_however_the_bytes_are_cut(rows: list[PlainRow], cut: int) -> None:
    sent = [NumberedRow(number, row) for number, row in enumerate(rows)]
    data, reader = b"".join(map(record_frame, sent)), RecordReader()
    pieces = (data[start : start + cut] for start in range(0, len(data), cut))
    arrived: list[NumberedRow] = []
    for piece in pieces:
        found = reader.feed(piece)
        assert reader.frames() == b"".join(map(record_frame, found))
        assert reader.frames() == b""  # given out once
        arrived += found
    assert arrived == sent


@given(st.integers(1, 40))
def test_acknowledgements_arrive_equal_however_the_bytes_are_cut(cut: int) -> None:
    row = PlainRow("captures", "acme", "tickets", "p", b"{}")
    batch = [NumberedRow(number, row) for number in (4, 6, 9)]
    counts = {("acme", "tickets"): {"pairs": 2.0, "cost_usd": 0.25}}
    outcome = Written([None, StorageFull("full", remedy="free some"), CannotOpen("moved")], counts)
    data = acknowledgement(batch, outcome)
    data += acknowledgement(batch, Written([None, None, ValueError("x")], {}))
    reader = AcknowledgementReader()
    told = [
        decided
        for start in range(0, len(data), cut)
        for decided in reader.feed(data[start : start + cut])
    ]
    assert [each.newest for each in told] == [9, 9]
    assert [each.counts for each in told] == [counts, {}]
    first, second = (each.failed for each in told)
    assert {seq: type(error) for seq, error in first.items()} == {6: StorageFull, 9: CannotOpen}
    assert getattr(first[6], "remedy", "") == "free some"
    assert "x" not in str(second[9]).removeprefix("the spool failed: ValueError").strip()


async def test_a_writer_that_dies_with_nothing_waiting_leaves_its_numbers_taken(
    spool: SpoolClient, workspace: Workspace, exchange: Callable[..., Exchange], lost: list[str]
) -> None:
    """Rows under the numbers of rows that are committed would pass for those, and be dropped."""
    records = [exchange(number) for number in range(6)]
    for record in records[:3]:
        await spool.commit(record, tenant=TENANT)
    assert spool.pending == 0
    assert spool.writer_pid is not None
    os.kill(spool.writer_pid, signal.SIGKILL)
    while not lost:
        await asyncio.to_thread(os.sched_yield)
    for record in records[3:]:
        await spool.commit(record, tenant=TENANT)
    assert sorted(stored(workspace)) == sorted(record.pair_id for record in records)
