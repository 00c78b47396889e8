"""A database that is open twice in one process, and that others open and leave meanwhile."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store.drain import waiting_rows
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.state import State
from apprentice_pipeline.vault import Vault

Start = Callable[..., subprocess.Popen[str]]

LOOK_AT_SPOOL = """
import sys
from pathlib import Path
from apprentice_pipeline.store.drain import waiting_rows

print(waiting_rows(Path(sys.argv[1])))
"""
LOOK_AT_STATE = """
import sys
from apprentice_pipeline.store.state import State

state = State.open(sys.argv[1])
print(int(state.counters("acme", "tickets").get("calls", 0)))
state.close()
"""


def told(process: subprocess.Popen[str]) -> int:
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return int(out)


def test_committed_rows_stay_when_this_process_and_another_have_looked_at_the_spool(
    tmp_path: Path, vault: Vault, exchange: Callable[..., Exchange], child: Start
) -> None:
    folder = tmp_path / "spool"
    spool = Spool.open(folder, vault)
    for rows in range(1, 4):
        waiter = spool.put(exchange(rows), tenant="acme")
        assert waiter.exception() is None
        assert waiting_rows(folder) == rows
        assert told(child(LOOK_AT_SPOOL, folder)) == rows
    spool.close()
    assert waiting_rows(folder) == 3


def test_what_was_counted_stays_when_this_process_and_another_have_opened_the_state(
    tmp_path: Path, child: Start
) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    state = State.open(url)
    for calls in range(1, 4):
        state.count("acme", "tickets", "2026-01-01", {"calls": 1})
        second = State.open(url)
        assert told(child(LOOK_AT_STATE, url)) == calls
        assert second.counters("acme", "tickets") == {"calls": calls}
        second.close()
    state.close()


def test_databases_are_made_for_their_owner_alone(tmp_path: Path, vault: Vault) -> None:
    State.open(f"sqlite:///{tmp_path / 'state.db'}").close()
    spool = Spool.open(tmp_path, vault)
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*.db")}
    spool.close()
    assert set(modes.values()) == {0o600}
    assert len(modes) == 2
