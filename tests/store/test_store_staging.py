"""Records safe first, rows later: whatever happens in between, each is there once."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.reading.calls import Passed
from apprentice_pipeline.reading.spools import drain_spools, recoverer
from apprentice_pipeline.records import Exchange, now_us
from apprentice_pipeline.store.arrivals import MOST_TRIES, empty_log, settle, unread_batches
from apprentice_pipeline.store.drain import DrainReport, drain, waiting_rows
from apprentice_pipeline.store.erasure import erase
from apprentice_pipeline.store.sealing import PlainRow, plain_row
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.spool_file import LOG_SUFFIX, Lock, SpoolFile, claim
from apprentice_pipeline.store.spool_frames import NumberedRow
from apprentice_pipeline.store.spool_writer import KEY_REFRESH_S, SpoolWriter
from apprentice_pipeline.store.staging import (
    COMMIT_ROWS,
    COMMIT_S,
    MOST_TAKEN,
    STEP_ROWS,
    Staging,
)
from apprentice_pipeline.store.unread import UNREAD, Counts, Reading, Stream
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.vault import MemoryDataKeys, Vault
from tests.eventually import eventually

TENANT = "acme"
OK = (
    b'{"model": "gpt-4o", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role":'
    b' "assistant", "content": "yes"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}'
)
CALL = ("openai", "chat.completions", "", 1, 200, "whole", True, 1, None, 1.0, "", "")
POISON = "poison"
FATAL = "fatal"


def read(row: PlainRow) -> Reading:
    """A reader that knows verdicts: an unread row is one, unless it is poison, or worse."""
    if row.pair_id.startswith(POISON):
        raise ValueError
    if row.pair_id.startswith(FATAL):
        os._exit(9)
    return Reading(row._replace(table="verdicts", first=None, second=None), {"pairs": 1})


def unread(number: int, pair_id: str = "pair") -> NumberedRow:
    return NumberedRow(
        number,
        PlainRow(UNREAD, TENANT, "tickets", f"{pair_id}-{number}", b"{}", b"asked", b"said"),
    )


class Place:
    """One spool's file, its writer and staging, which can die."""

    def __init__(self, path: Path, vault: Vault) -> None:
        self.path, self.vault = path, vault
        SpoolFile.open(path, create=True).close()
        self.begin()

    def begin(self) -> None:
        self.writer = SpoolWriter(self.path, self.vault, read)
        self.staging = Staging(self.path, self.vault, self.writer, ahead=True)

    def die(self) -> None:
        """What is in memory only is gone."""
        self.staging.close()
        self.writer.close()

    def recover(self, path: Path | None = None) -> None:
        with closing(SpoolWriter(path or self.path, self.vault, read)) as writer:
            writer.recover()

    def rows(self) -> list[tuple[int, str]]:
        with closing(SpoolFile.open(self.path)) as file:
            return [(each.seq, each.row.pair_id) for each in file.read(0, 1 << 62, 1 << 30)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "5f.db", Vault(bytes(32), MemoryDataKeys()))
    yield made
    made.die()


def names(numbers: range) -> list[tuple[int, str]]:
    return [(number, f"pair-{number}") for number in numbers]


def test_what_was_taken_is_there_after_a_crash_and_its_log_is_not(place: Place) -> None:
    told = place.staging.take([unread(1), unread(2)])
    assert told.outcome == [None, None]
    assert place.rows() == []
    place.die()
    place.recover()
    assert place.rows() == names(range(1, 3))
    assert place.path.with_suffix(LOG_SUFFIX).stat().st_size == 0


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.sampled_from(["take", "work", "finish", "rest", "die"]), max_size=40),
    sizes=st.lists(st.integers(1, 30), min_size=40, max_size=40),
)
def test_in_whatever_order_it_works_rests_and_dies_each_record_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("place")
    place, newest = Place(folder / "5f.db", Vault(bytes(32), MemoryDataKeys())), 0
    for step, size in zip(steps, sizes, strict=False):
        if step == "take":
            batch = [unread(newest + at) for at in range(1, size + 1)]
            assert place.staging.take(batch).outcome == [None] * size
            newest += size
        elif step == "die":
            place.die()
            place.begin()
        elif step == "work":
            place.staging.work()
        elif step == "finish":
            assert place.staging.finish() is None
        else:
            place.staging.rest()
    place.die()
    place.recover()
    assert place.rows() == names(range(1, newest + 1))


def of(tenant: str, record: NumberedRow) -> NumberedRow:
    return NumberedRow(record.seq, record.row._replace(tenant=tenant))


@pytest.mark.parametrize("erased", [(1, 2), (2,), (1,)])
def test_what_a_tenant_took_its_key_with_holds_no_recovery_up(
    place: Place, erased: tuple[int, ...]
) -> None:
    """An erasure came between the crash and the recovery."""
    for number in (1, 2):
        place.staging.take([of("zeta" if number in erased else TENANT, unread(number))])
    place.staging.take([unread(3), of("zeta", unread(4))])
    place.die()
    place.vault.forget("zeta")
    place.recover()
    assert place.rows() == [(at, f"pair-{at}") for at in (1, 2, 3) if at not in erased]
    assert place.path.with_suffix(LOG_SUFFIX).stat().st_size == 0
    place.begin()
    assert place.staging.take([unread(5)]).outcome == [None]


def test_a_log_that_was_deleted_under_its_writer_is_made_anew(place: Place) -> None:
    place.staging.take([unread(1)])
    place.path.with_suffix(LOG_SUFFIX).unlink()
    assert place.staging.take([unread(2)]).outcome == [None]
    assert place.staging.take([unread(3)]).outcome == [None]
    assert place.path.with_suffix(LOG_SUFFIX).stat().st_size > 0
    place.die()
    place.recover()
    assert place.rows() == names(range(1, 4))


def test_what_comes_long_after_an_erasure_is_not_in_the_log_under_the_erased_key(
    tmp_path: Path,
) -> None:
    """Another process erased the tenant; this one had nothing of the tenant's to seal since."""
    keys = MemoryDataKeys()
    place = Place(tmp_path / "5f.db", Vault(bytes(32), keys))
    place.staging.take([unread(1)])
    place.staging.rest()
    Vault(bytes(32), keys).forget(TENANT)
    time.sleep(KEY_REFRESH_S + 0.1)
    assert place.staging.take([unread(2)]).outcome == [None]
    place.die()
    place.vault = Vault(bytes(32), keys)
    place.recover()
    assert place.rows() == names(range(1, 3))


def test_a_record_handed_over_again_after_a_crash_is_not_doubled(place: Place) -> None:
    """The acknowledgement was lost with the writer."""
    place.staging.take([unread(1), unread(2)])
    place.die()
    place.begin()
    assert place.staging.take([unread(1), unread(2), unread(3)]).outcome == [None] * 3
    assert place.staging.finish() is None
    assert place.rows() == names(range(1, 4))


def test_rows_are_committed_many_at_once_or_when_nothing_comes(place: Place) -> None:
    staging, pairs = place.staging, 0.0
    assert staging.wait_s is None
    for number in range(1, COMMIT_ROWS + STEP_ROWS + 1):
        told = staging.take([unread(number)])
        pairs += sum(each["pairs"] for each in told.counts.values())
        while staging.wait_s == 0:
            assert staging.work() == {}
    assert place.writer.commits == 1
    assert staging.wait_s is not None
    assert pairs == COMMIT_ROWS
    counts = staging.work()
    assert counts == {(TENANT, "tickets"): {"pairs": STEP_ROWS}}
    assert place.writer.commits == 2
    assert len(place.rows()) == COMMIT_ROWS + STEP_ROWS
    staging.work()
    assert staging.wait_s is None
    assert place.path.with_suffix(LOG_SUFFIX).stat().st_size == 0


def test_a_log_that_is_full_begins_anew_once_its_rows_are_there(place: Place) -> None:
    """Several times over, without ever working in between."""
    newest = 0
    for _ in range(100):
        batch = [
            NumberedRow(each.seq, each.row._replace(first=bytes(50_000)))
            for each in map(unread, range(newest + 1, newest + 8))
        ]
        assert place.staging.take(batch).outcome == [None] * 7
        newest += 7
    place.die()
    place.recover()
    assert place.rows() == names(range(1, newest + 1))


def test_so_many_wait_to_be_read_and_no_more(place: Place) -> None:
    for start in range(1, 40 * 64, 64):
        place.staging.take([unread(start + at) for at in range(64)])
    place.die()
    with closing(SpoolFile.open(place.path)) as file:
        last = file.last_number()
    place.begin()
    place.recover()
    assert len(place.rows()) == 40 * 64
    assert last == 0 or last > 40 * 64 - MOST_TAKEN - 64


def test_a_record_that_cannot_be_read_fails_alone_and_is_counted_as_lost(place: Place) -> None:
    staging = place.staging
    staging.take([unread(1), unread(2, POISON), unread(3), unread(4, POISON)])
    while staging.wait_s == 0:
        staging.work()
    counts = staging.work()
    assert counts == {(TENANT, "tickets"): {"pairs": 2, "lost": 2, "at_risk": 2}}
    assert [number for number, _ in place.rows()] == [1, 3]
    assert place.staging.finish() is None
    with closing(SpoolFile.open(place.path)) as file:
        assert file.last_number() == 4


class Sums(dict[str, float]):
    """What was told of one stream, put together."""

    def add(self, told: Mapping[Stream, Counts]) -> None:
        for name, value in told.get((TENANT, "tickets"), {}).items():
            self[name] = self.get(name, 0) + value


@pytest.mark.parametrize("by_thread", [False, True])
def test_what_is_handed_over_again_counts_once(place: Place, *, by_thread: bool) -> None:
    """Its writer died before it told: the next one finds it in the log, and gets it again."""
    sums, again = Sums(), [unread(1), unread(2, POISON), unread(3)]
    place.staging.take(again[:2])
    place.die()
    place.begin()
    if by_thread:
        sums.add(place.writer.write(again).counts)
    else:
        for each in again:
            sums.add(place.staging.take([each]).counts)
        sums.add(place.staging.rest())
    assert sums == {"pairs": 2, "lost": 1, "at_risk": 1}
    assert [number for number, _ in place.rows()] == [1, 3]


@settings(deadline=None, max_examples=100)
@given(
    steps=st.lists(
        st.sampled_from(["take", "take", "work", "rest", "die", "again", "erasure", "delete"]),
        max_size=40,
    ),
    sizes=st.lists(st.integers(1, 30), min_size=40, max_size=40),
)
def test_whatever_happens_no_record_counts_twice_and_without_a_crash_each_counts(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], sizes: list[int]
) -> None:
    """Every seventh cannot be read. `again`: a crash with the last acknowledgement unread, and so
    all that was told after it; its batch is handed over again."""
    folder = tmp_path_factory.mktemp("place")
    place = Place(folder / "5f.db", Vault(bytes(32), MemoryDataKeys()))
    log = place.path.with_suffix(LOG_SUFFIX)
    sums, batch, newest, crashed = Sums(), list[NumberedRow](), 0, False
    before = Sums()
    for step, size in zip(steps, sizes, strict=False):
        if step in ("die", "again"):
            place.die()
            place.begin()
            crashed = True
        if step == "take":
            numbers = range(newest + 1, newest + size + 1)
            batch = [unread(at, "pair" if at % 7 else POISON) for at in numbers]
            newest += size
            before = Sums(sums)
        elif step == "again":
            sums = Sums(before)
        if step == "take" or (step == "again" and batch):
            sums.add(place.staging.take(batch).counts)
        elif step == "work":
            sums.add(place.staging.work())
        elif step == "rest":
            sums.add(place.staging.rest())
        elif step == "erasure" and settle(place.path, 0):
            empty_log(place.path)
        elif step == "delete" and place.staging.wait_s is not None:
            place.staging.finish()
            log.unlink(missing_ok=True)
    sums.add(place.staging.rest())
    place.die()
    with closing(SpoolWriter(place.path, place.vault, read)) as writer:
        writer.recover()
        sums.add(writer.recovered())
    good = [number for number in range(1, newest + 1) if number % 7]
    assert [number for number, _ in place.rows()] == good
    told = {name: int(sums.get(name, 0)) for name in ("pairs", "lost", "at_risk")}
    wanted = {"pairs": len(good), "lost": newest - len(good), "at_risk": newest - len(good)}
    assert all(told[name] <= wanted[name] for name in wanted)
    assert crashed or told == wanted


def test_what_was_read_counts_once_it_is_committed(place: Place) -> None:
    """A crash in between has it read again."""
    sums = Sums()
    for number in range(1, 4):
        sums.add(place.staging.take([unread(number, POISON if number == 2 else "pair")]).counts)
        place.staging.work()
    place.die()
    place.begin()
    sums.add(place.staging.take([unread(4)]).counts)
    while place.staging.wait_s is not None:
        sums.add(place.staging.work())
    assert sums == {"pairs": 3, "lost": 1, "at_risk": 1}


def test_a_record_that_cannot_be_read_keeps_no_drain_waiting(place: Place) -> None:
    place.staging.take([unread(1), unread(2, POISON)])
    place.staging.work()
    assert place.staging.wait_s == COMMIT_S
    place.staging.work()
    assert settle(place.path, 0)
    place.staging.take([unread(3, POISON)])
    place.staging.work()
    assert place.staging.wait_s == COMMIT_S
    place.staging.work()
    assert settle(place.path, 0)


def test_what_is_never_kept_is_in_no_log(tmp_path: Path) -> None:
    path, vault = tmp_path / "5f.db", Vault(bytes(32), MemoryDataKeys())
    SpoolFile.open(path, create=True).close()
    with closing(SpoolWriter(path, vault, read)) as writer:
        staging = Staging(path, vault, writer, ahead=False)
        told = staging.take([unread(1), unread(2, POISON)])
    assert told.outcome[0] is None
    assert isinstance(told.outcome[1], ValueError)
    assert told.counts == {(TENANT, "tickets"): {"pairs": 1}}
    assert not path.with_suffix(LOG_SUFFIX).exists()


def test_while_another_process_has_the_spool_records_are_taken_all_the_same(place: Place) -> None:
    place.staging.take([unread(1)])
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(2, 100):
            assert place.staging.take([unread(number)]).outcome == [None]
            place.staging.work()
        assert place.rows() == []
        other.execute("ROLLBACK")
    assert place.staging.finish() is None
    assert place.rows() == names(range(1, 100))


def test_a_record_that_kills_who_reads_it_does_so_only_so_often(place: Place) -> None:
    """Then it is counted as lost, and its log set aside."""
    place.staging.take([unread(1)])
    assert place.staging.finish() is None
    place.staging.take([unread(2), unread(3, FATAL)])
    place.die()
    deaths = 0
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of other tests' threads
            child = os.fork()
        if not child:
            place.recover()
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        deaths += 1
    assert deaths == MOST_TRIES
    assert place.rows() == names(range(1, 2))
    assert not place.path.with_suffix(LOG_SUFFIX).exists()
    assert len(list(place.path.parent.glob("*.unread-*"))) == 1
    place.begin()
    assert place.staging.take([unread(4)]).outcome == [None]
    assert place.staging.finish() is None
    assert [number for number, _ in place.rows()] == [1, 4]


def test_what_is_given_up_is_counted(place: Place) -> None:
    place.staging.take([unread(1), unread(2)])
    place.die()
    place.path.with_suffix(".tries").write_bytes(b"." * MOST_TRIES)
    with closing(SpoolWriter(place.path, place.vault, read)) as writer:
        writer.recover()
        assert writer.recovered() == {(TENANT, "tickets"): {"lost": 2, "at_risk": 2}}
    assert place.rows() == []
    assert not place.path.with_suffix(".tries").exists()


def claimed(workspace: Workspace, vault: Vault | None = None) -> tuple[Place, Lock]:
    """A worker's spool of a workspace, and the lock that says the worker lives."""
    spool_id, lock = claim(workspace.home.spool)
    return Place(workspace.home.spool / f"{spool_id}.db", vault or workspace.vault), lock


@pytest.fixture
def taken(workspace: Workspace, exchange: Callable[..., Exchange]) -> Iterator[Place]:
    """A live worker's spool of a workspace, with three exchanges that are in its log only."""
    made, lock = claimed(workspace)
    batch = [NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2, 3)]
    assert made.staging.take(batch).outcome == [None] * 3
    yield made
    made.die()
    lock.release()


def kept(workspace: Workspace) -> int:
    return int(workspace.lake.sql(TENANT, "select count(*) as n from captures")[0]["n"])


def test_a_drain_waits_for_what_a_living_writer_has_taken_in(
    workspace: Workspace, taken: Place
) -> None:
    """A response that was delivered before the drain began is in the lake after it."""
    assert waiting_rows(workspace.home.spool) == 3
    steps: list[str] = []
    drained = threading.Thread(
        target=drain, args=(workspace.home.spool, workspace.lake), kwargs={"on_step": steps.append}
    )
    drained.start()
    eventually(lambda: "locked" in steps)
    time.sleep(0.1)
    assert "recovered" not in steps
    while taken.staging.wait_s is not None:
        taken.staging.work()
    drained.join()
    assert kept(workspace) == 3
    assert waiting_rows(workspace.home.spool) == 0


def test_a_drain_reads_what_a_dead_worker_had_taken_in(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    made, lock = claimed(workspace)
    made.staging.take([NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2, 3)])
    made.die()
    lock.release()
    report = drain(workspace.home.spool, workspace.lake)
    assert (report.failed, report.removed) == (1, 0)
    assert "nobody has read" in report.error
    assert waiting_rows(workspace.home.spool) == 3
    report = drain(workspace.home.spool, workspace.lake, recover=made.recover)
    assert (report.rows, report.failed, report.removed) == (3, 0, 1)
    assert list(workspace.home.spool.iterdir()) == []
    assert kept(workspace) == 3


def test_what_a_dead_worker_had_taken_in_is_counted(workspace: Workspace) -> None:
    made, lock = claimed(workspace)
    asked = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "?"}]}'
    call = Passed("good", TENANT, "tickets", asked, OK, *CALL)
    made.staging.take([NumberedRow(1, call.row()), unread(2, POISON)])
    made.die()
    lock.release()
    assert drain_spools(workspace).rows == 1
    assert drain_spools(workspace).rows == 0
    counted = workspace.state.counters(TENANT, "tickets")
    assert {name: counted[name] for name in ("pairs", "lost", "at_risk")} == {
        "pairs": 1,
        "lost": 1,
        "at_risk": 1,
    }
    assert counted["cost_usd"] > 0
    spent = workspace.state.spent(TENANT, "tickets", now_us=now_us(), count_passthrough=True)
    assert float(spent.spent["day"]) == pytest.approx(counted["cost_usd"])


def test_a_log_whose_spool_is_gone_is_read_once_all_the_same(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """Its first two rows had reached the lake; then somebody deleted the database."""
    made, lock = claimed(workspace)
    rows = [NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2, 3)]
    made.staging.take(rows[:2])
    assert made.staging.finish() is None
    assert drain(workspace.home.spool, workspace.lake).rows == 2
    made.staging.take(rows[2:])
    made.die()
    for suffix in ("", "-wal", "-shm"):
        made.path.with_name(made.path.name + suffix).unlink(missing_ok=True)
    assert drain(workspace.home.spool, workspace.lake).rows == 0  # its worker lives
    lock.release()
    report = drain(workspace.home.spool, workspace.lake, recover=made.recover)
    assert (report.rows, report.failed, report.removed) == (1, 0, 1)
    assert kept(workspace) == 3
    assert list(workspace.home.spool.iterdir()) == []


def damaged(workspace: Workspace, taken: Place) -> None:
    """The worker is dead; of its spool only the log is sound."""
    taken.die()
    taken.path.write_bytes(b"\x99" * 8_192)
    for suffix in ("-wal", "-shm"):
        taken.path.with_name(taken.path.name + suffix).unlink(missing_ok=True)


def test_the_log_of_a_damaged_spool_is_read_all_the_same(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    made, lock = claimed(workspace)
    made.staging.take([NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2, 3)])
    damaged(workspace, made)
    lock.release()
    assert drain_spools(workspace).damaged == 1
    report = drain_spools(workspace)
    assert (report.rows, report.failed, report.removed) == (3, 0, 1)
    assert kept(workspace) == 3
    assert drain_spools(workspace) == DrainReport()
    assert len(list(workspace.home.spool.iterdir())) == 1  # the damaged file


def resumed(workspace: Workspace, spool_id: str, lock: Lock) -> Spool:
    """The thread of a worker whose writer died."""
    numbers = itertools.count(4)
    return Spool.resume(
        workspace.home.spool,
        workspace.vault,
        spool_id,
        lock,
        [],
        numbers,
        read,
        lambda _: None,
        None,
    )


def test_what_a_writer_had_taken_in_survives_the_damage_that_it_finds(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """Its worker begins another spool, and goes on."""
    made, lock = claimed(workspace)
    made.staging.take([NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2, 3)])
    damaged(workspace, made)
    thread = resumed(workspace, made.path.stem, lock)
    thread.put(exchange(4), tenant=TENANT).result(60)
    thread.close()
    report = drain_spools(workspace)
    assert (report.rows, report.failed) == (4, 0)
    assert kept(workspace) == 4


def test_a_log_that_cannot_be_read_now_keeps_no_row_of_its_spool_from_the_lake(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    made, lock = claimed(workspace)
    made.staging.take([NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2)])
    made.staging.rest()
    made.staging.take([NumberedRow(3, plain_row(exchange(3), TENANT))])
    made.die()
    lock.release()
    report = drain(workspace.home.spool, workspace.lake)
    assert (report.rows, report.failed, report.removed) == (2, 1, 0)
    assert drain_spools(workspace).rows == 1
    assert kept(workspace) == 3


def test_a_log_that_does_not_open_holds_no_later_record_up(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    """The state database is not the one its key is in: the log waits for that one."""
    other = Vault(bytes(32), MemoryDataKeys())
    made, lock = claimed(workspace, other)
    made.staging.take([NumberedRow(1, plain_row(exchange(1), TENANT))])
    made.die()
    thread = resumed(workspace, made.path.stem, lock)
    thread.put(exchange(2), tenant=TENANT).result(60)
    thread.close()
    report = drain_spools(workspace)
    assert (report.rows, report.failed, report.damaged) == (1, 1, 0)
    assert "does not open" in report.error
    assert len(list(unread_batches(made.path, other, 0))) == 1


def test_what_is_erased_is_in_no_log_whose_spool_is_gone(
    workspace: Workspace, exchange: Callable[..., Exchange]
) -> None:
    made, lock = claimed(workspace)
    made.staging.take([NumberedRow(at, plain_row(exchange(at), TENANT)) for at in (1, 2, 3)])
    made.die()
    lock.release()
    for suffix in ("", "-wal", "-shm"):
        made.path.with_name(made.path.name + suffix).unlink(missing_ok=True)
    report = erase(
        workspace, TENANT, namespace="tickets", now_us=1 << 60, recover=recoverer(workspace)
    )
    assert report.spool_rows == 3
    assert made.path.with_suffix(LOG_SUFFIX).stat().st_size == 0


def test_what_is_erased_is_in_no_log_either(workspace: Workspace, taken: Place) -> None:
    """The writer lives, works on, and takes in more meanwhile."""
    stop = threading.Event()

    def work() -> None:
        number = 4
        while not stop.is_set():
            taken.staging.take([unread(number)])
            number += 1
            time.sleep(0.001)
            while taken.staging.wait_s == 0:
                taken.staging.work()

    working = threading.Thread(target=work)
    working.start()
    log = taken.path.with_suffix(LOG_SUFFIX)
    before = log.read_bytes()
    report = erase(workspace, TENANT, namespace="tickets", now_us=1 << 60)
    stop.set()
    working.join()
    assert report.spool_rows == 3
    assert before[:200] not in log.read_bytes()
    assert taken.staging.finish() is None


def test_an_erasure_that_cannot_wait_for_a_writer_says_so(
    workspace: Workspace, taken: Place
) -> None:
    """Its writer stands still: to go on would leave the erased rows in its log."""
    with pytest.raises(StoreError, match="does not get on") as caught:
        erase(workspace, TENANT, namespace="tickets", now_us=1 << 60)
    assert caught.value.remedy
    assert taken.staging.finish() is None
    assert erase(workspace, TENANT, namespace="tickets", now_us=1 << 60).spool_rows == 3
