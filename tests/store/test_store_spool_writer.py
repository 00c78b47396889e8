"""What a spool's writer does while the state database, where the keys are, is slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store.sealing import plain_row
from apprentice_pipeline.store.spool_frames import NumberedRow
from apprentice_pipeline.store.spool_writer import KEY_REFRESH_S, SpoolWriter
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
