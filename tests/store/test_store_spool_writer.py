"""What a spool's writer does while keys are slow to come, and how much of a batch it holds."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store.sealing import FEEDBACK, PlainRow, plain_row
from apprentice_pipeline.store.spool_frames import NumberedRow
from apprentice_pipeline.store.spool_writer import KEY_REFRESH_S, SpoolWriter
from apprentice_pipeline.store.unread import UNREAD, Reading
from apprentice_pipeline.vault import MemoryDataKeys, Vault


class SlowKeys:
    """A `DataKeyStore` that answers when told to."""

    def __init__(self) -> None:
        self._keys = MemoryDataKeys()
        self.add_wrapped_key = self._keys.add_wrapped_key
        self.delete_wrapped_keys = self._keys.delete_wrapped_keys
        self.forgotten_version = self._keys.forgotten_version
        self.answers = threading.Event()
        self.answers.set()

    def wrapped_keys(self, tenant: str) -> dict[int, bytes]:
        self.answers.wait(30)
        return self._keys.wrapped_keys(tenant)


def test_looking_keys_up_again_delays_no_commit(
    tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    keys = SlowKeys()
    writer = SpoolWriter(tmp_path / "s.db", Vault(bytes(32), keys))
    writer.create()
    rows = [NumberedRow(n, plain_row(exchange(n), "acme")) for n in range(1, 30)]
    assert writer.write(rows[:1]).outcome == [None]
    time.sleep(KEY_REFRESH_S)
    keys.answers.clear()
    began = time.monotonic()
    for row in rows[1:]:
        assert writer.write([row]).outcome == [None]
    assert time.monotonic() - began < 1.5
    keys.answers.set()
    writer.close()


def test_sealing_a_large_batch_holds_a_few_of_its_rows_at_a_time(tmp_path: Path) -> None:
    """What a reader makes of a record is as large as the record."""
    content = bytes(2_000_000)

    def read(row: PlainRow) -> Reading:
        assert row.first is not None
        return Reading(row._replace(table=FEEDBACK, first=None, second=bytes(len(row.first))), {})

    writer = SpoolWriter(tmp_path / "s.db", Vault(bytes(32), MemoryDataKeys()), read)
    unread = PlainRow(UNREAD, "acme", "tickets", "p", b"{}", content, None)
    batch = [NumberedRow(n, unread._replace(pair_id=f"p{n}")) for n in range(1, 65)]
    tracemalloc.start()
    try:
        rows, written = writer.sealed(batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row.seq for row in rows] == list(range(1, 65))
    assert written.outcome == [None] * 64
    assert peak < 16_000_000


def test_who_fails_to_be_read_or_sealed_fails_alone(
    tmp_path: Path, exchange: Callable[..., Exchange]
) -> None:
    def read(row: PlainRow) -> Reading:
        if row.pair_id.endswith("3"):
            raise ValueError("unreadable")
        return Reading(
            row._replace(table="no table" if row.pair_id.endswith("7") else FEEDBACK), {}
        )

    writer = SpoolWriter(tmp_path / "s.db", Vault(bytes(32), MemoryDataKeys()), read)
    plain = plain_row(exchange(1), "acme")
    rows = [PlainRow(UNREAD, "acme", "tickets", f"p{n}", b"{}", None, b"x") for n in range(40)]
    rows[20] = plain
    batch = [NumberedRow(n, row) for n, row in enumerate(rows, 1)]
    sealed, written = writer.sealed(batch)
    failed = [at for at, error in enumerate(written.outcome) if error is not None]
    assert failed == [at for at in range(40) if at % 10 in (3, 7)]
    assert [row.seq for row in sealed] == [at + 1 for at in range(40) if at not in failed]
