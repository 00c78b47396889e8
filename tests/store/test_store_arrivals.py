"""The log of what has arrived at a spool: what was appended is found, and nothing else is."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import CannotOpen, KeyMissing, StoreError
from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store import arrivals
from apprentice_pipeline.store.arrivals import (
    Arrivals,
    arrived_rows,
    empty_log,
    newest_arrival,
    unread_batches,
)
from apprentice_pipeline.store.sealing import PlainRow, plain_row
from apprentice_pipeline.store.spool_file import LOG_SUFFIX, SpoolFile
from apprentice_pipeline.store.spool_frames import NumberedRow, record_frame
from apprentice_pipeline.vault import MemoryDataKeys, Vault

CANARY = "canary-52aa"


def row(number: int, tenant: str = "acme", size: int = 40) -> NumberedRow:
    """An unread row with some content."""
    content = f"{CANARY} {number} ".encode().ljust(size, b".")
    return NumberedRow(
        number, PlainRow("unread", tenant, "tickets", f"pair-{number}", b"[]", content, None)
    )


def batches(*sizes: int) -> list[list[NumberedRow]]:
    """So many batches of so many rows, numbered on, of two tenants by turns."""
    made, number = [], 0
    for size in sizes:
        made.append([row(number + at, ("acme", "zeta")[at % 2]) for at in range(1, size + 1)])
        number += size
    return made


def found_after(path: Path, vault: Vault, number: int) -> list[list[NumberedRow]]:
    return [each.rows for each in unread_batches(path, vault, number)]


@pytest.fixture
def vault() -> Vault:
    return Vault(bytes(32), MemoryDataKeys())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A spool's file."""
    made = tmp_path / "5f.db"
    SpoolFile.open(made, create=True).close()
    return made


@pytest.fixture
def log(path: Path, vault: Vault) -> Iterator[Arrivals]:
    with closing(Arrivals.open(path, vault)) as opened:
        yield opened


def test_what_was_appended_is_found_in_order_and_sealed(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    given = batches(3, 1, 4)
    assert all(log.append(batch) for batch in given)
    assert found_after(path, vault, 0) == given
    assert found_after(path, vault, 2) == [given[0][2:], *given[1:]]
    assert found_after(path, vault, 8) == []
    assert newest_arrival(path) == 8
    assert arrived_rows(path)(3) == 5
    assert CANARY.encode() not in path.with_suffix(LOG_SUFFIX).read_bytes()
    assert path.with_suffix(LOG_SUFFIX).stat().st_mode & 0o077 == 0


def test_a_batch_that_came_as_bytes_is_found_as_if_it_had_not(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    of_one, of_two = [row(1), row(2)], [row(3, "acme"), row(4, "zeta")]
    for batch in (of_one, of_two):
        assert log.append(batch, b"".join(map(record_frame, batch)))
    assert found_after(path, vault, 0) == [of_one, of_two]
    vault.forget("acme")
    assert found_after(path, vault, 0) == [[], of_two[1:]]  # each sealed with its tenant's key


def test_a_spool_without_a_log_has_nothing_unread(path: Path, vault: Vault) -> None:
    assert newest_arrival(path) == 0
    assert found_after(path, vault, 0) == []
    empty_log(path)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_log_cut_short_or_changed_gives_what_was_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As a crash in the middle of a write leaves it, or worse: a prefix, never anything else."""
    vault = Vault(bytes(32), MemoryDataKeys())
    path = tmp_path_factory.mktemp("log") / "5f.db"
    given = batches(2, 3, 1)
    with closing(Arrivals.open(path, vault)) as log:
        assert all(log.append(batch) for batch in given)
    file = path.with_suffix(LOG_SUFFIX)
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        file.write_bytes(whole[:at])
    else:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    found = found_after(path, vault, 0)
    assert found == given[: len(found)]
    assert len(found) < 3


def test_the_entries_of_an_earlier_round_are_not_taken_for_new_ones(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    old, new = batches(1, 1, 1, 1), [row(9), row(10)]
    assert all(log.append(batch) for batch in old)
    log.restart()
    assert log.append(new)
    assert found_after(path, vault, 4) == [new]
    assert newest_arrival(path) == 10


def test_a_batch_for_which_there_is_no_room_is_refused_and_the_log_stays_sound(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    assert not log.append([row(1, size=arrivals.MOST_ENTRY_BYTES)])
    number = 0
    while log.append([row(number + 1, size=arrivals.MOST_ENTRY_BYTES // 2)]):
        number += 1
    assert number >= 4
    assert path.with_suffix(LOG_SUFFIX).stat().st_size <= arrivals.MOST_BYTES
    assert newest_arrival(path) == number
    log.restart()
    assert log.append([row(number + 1)])


def test_what_a_tenant_took_its_key_with_is_left_out(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    assert log.append([row(1, "acme"), row(2, "zeta"), row(3, "acme")])
    vault.forget("acme")
    assert found_after(path, vault, 0) == [[row(2, "zeta")]]


def test_a_key_that_is_missing_is_an_error_and_never_an_end(path: Path, log: Arrivals) -> None:
    assert log.append([row(1)])
    with pytest.raises(KeyMissing, match="has no data key"):
        list(unread_batches(path, Vault(bytes(32), MemoryDataKeys()), 0))


def test_a_log_that_was_put_beside_another_spool_does_not_open(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    assert log.append([row(1)])
    other = path.with_name("6e.db")
    path.with_suffix(LOG_SUFFIX).rename(other.with_suffix(LOG_SUFFIX))
    with pytest.raises(CannotOpen):
        found_after(other, vault, 0)


def test_while_an_erasure_has_the_log_nothing_is_appended_and_then_it_begins_anew(
    path: Path, vault: Vault, log: Arrivals, exchange: Callable[..., Exchange]
) -> None:
    assert log.append([NumberedRow(1, plain_row(exchange(), "acme"))])
    descriptor = os.open(path.with_suffix(LOG_SUFFIX), os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert not log.append([row(2)])
    os.close(descriptor)
    with closing(SpoolFile.open(path)) as file:
        file.append([], until=1)  # its row is in the spool
    empty_log(path)
    assert path.with_suffix(LOG_SUFFIX).stat().st_size == 0
    assert not log.append([row(2)])
    log.restart()
    assert log.append([row(2)])
    assert found_after(path, vault, 0) == [[row(2)]]


def test_a_log_cut_short_or_deleted_under_its_writer_takes_nothing_as_if_it_were_whole(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    """What it lost may be no row yet: its writer makes sure of that first."""
    assert log.append([row(1)])
    assert log.append([row(2)])
    file = path.with_suffix(LOG_SUFFIX)
    os.truncate(file, file.stat().st_size // 2)
    assert not log.append([row(3)])
    log.restart()
    assert log.append([row(3)])
    assert not log.is_deleted
    file.unlink()
    assert not log.append([row(4)])
    assert log.is_deleted


def test_what_could_not_be_written_whole_leaves_nothing_behind(
    path: Path, vault: Vault, log: Arrivals
) -> None:
    """Whoever waits for it is told that it failed."""
    assert log.append([row(1)])
    size = path.with_suffix(LOG_SUFFIX).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1_000, limits[1]))
    try:
        assert not log.append([row(2, size=5_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.with_suffix(LOG_SUFFIX).stat().st_size == size
    assert log.append([row(3)])
    assert found_after(path, vault, 0) == [[row(1)], [row(3)]]


def test_a_log_that_somebody_keeps_to_himself_is_an_error_and_no_wait_without_end(
    path: Path, log: Arrivals
) -> None:
    """As a writer does that is stopped in the middle of a write."""
    assert log.append([row(1)])
    with path.with_suffix(LOG_SUFFIX).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="does not get on"):
            empty_log(path)
