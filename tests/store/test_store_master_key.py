"""The master key: made once, never by accident; replaced without a row being touched."""

from __future__ import annotations

import base64
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import KeyMissing, MasterKeyChanged
from apprentice_pipeline.records import Exchange
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.master_key import (
    DRAFT,
    STEPS,
    load_master_key,
    rotate_master_key,
)
from apprentice_pipeline.store.pairs import label_rows
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.state import State
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.vault import MasterKey

PLACE = {"namespace": "tickets", "pair_id": "p-1", "field": "input"}
TENANTS = ("acme", "globex", "umbrella")
A, B = b"a" * 32, b"b" * 32
REPOSITORY = Path(__file__).parents[2]


def opened(home: Path, key: bytes | None = None) -> Workspace:
    given = {"APPRENTICE_MASTER_KEY": base64.b64encode(key).decode()} if key else {}
    return Workspace.open(load_settings({"APPRENTICE_HOME": str(home), **given}))


def filled(home: Path, key: bytes | None = None) -> dict[str, bytes]:
    """Something sealed for each tenant."""
    workspace = opened(home, key)
    sealed = {t: workspace.vault.seal(t.encode(), tenant=t, **PLACE) for t in TENANTS}
    workspace.close()
    return sealed


def assert_opens(workspace: Workspace, sealed: dict[str, bytes]) -> None:
    for tenant, value in sealed.items():
        assert workspace.vault.open(value, tenant=tenant, **PLACE) == tenant.encode()


def rotate(workspace: Workspace, new: bytes | None = None, **more: Any) -> int:
    keys, folder = workspace.state.data_keys, workspace.home.keys
    current = load_master_key(workspace.settings.master_key, folder, keys, has_data=True)
    return rotate_master_key(current, folder, keys, new=new, **more)


def test_a_rotation_touches_no_row(tmp_path: Path, exchange: Callable[..., Exchange]) -> None:
    """Lake and spool are byte for byte what they were, and are read with the new key."""
    workspace = opened(tmp_path)
    spool = Spool.open(workspace.home.spool, workspace.vault)
    ids = []
    for number in range(4):
        made = exchange(number)
        assert spool.put(made, tenant="acme").exception() is None
        ids.append(made.pair_id)
        if number == 1:
            drain(workspace.home.spool, workspace.lake)
    spool.close()

    def stored() -> dict[Path, bytes]:
        folders = (workspace.home.spool, workspace.home.lake)
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return {file: file.read_bytes() for file in files}

    before = stored()
    assert {file.suffix for file in before} >= {".db", ".parquet", ".json"}
    assert rotate(workspace) == 1
    assert stored() == before
    workspace.close()
    with closing(opened(tmp_path)) as fresh:
        drain(fresh.home.spool, fresh.lake, erased_of=fresh.state.erased_of)
        assert [row["pair_id"] for row in label_rows(fresh, "acme", "tickets")] == ids


def test_a_given_master_key_is_used_and_no_file_is_made(tmp_path: Path) -> None:
    opened(tmp_path, A).close()
    assert not (tmp_path / "keys" / "master.key").exists()


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    file = tmp_path / "keys" / "master.key"
    key = file.read_bytes()
    assert len(key) == 32
    opened(tmp_path).close()
    assert file.read_bytes() == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in file.parent.iterdir()] == ["master.key"]


OPEN = """
import os, sys
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.workspace import Workspace
print(flush=True); sys.stdin.read()
workspace = Workspace.open(load_settings(os.environ))
workspace.vault.seal(b"x", tenant="acme", namespace="n", pair_id="p", field="input")
print(workspace.state.data_keys.mark())
"""


def child(program: str, home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "APPRENTICE_HOME": str(home)},
    )


def test_processes_that_start_at_once_agree_on_one_master_key(tmp_path: Path) -> None:
    started = [child(OPEN, tmp_path) for _ in range(3)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    marks = set()
    for process in started:
        with process:
            assert process.stdout is not None
            marks.add(process.stdout.read().strip())
    assert marks == {MasterKey((tmp_path / "keys" / "master.key").read_bytes()).mark}


def test_a_damaged_key_file_is_refused_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "master.key"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"short")
    with pytest.raises(KeyMissing, match="32-byte key") as refusal:
        opened(tmp_path)
    assert "restore" in refusal.value.remedy
    assert file.read_bytes() == b"short"


def test_a_missing_key_file_is_an_error_where_something_is_sealed(tmp_path: Path) -> None:
    sealed = filled(tmp_path)
    file = tmp_path / "keys" / "master.key"
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(KeyMissing, match="is missing") as refusal:
        opened(tmp_path)
    assert "restore" in refusal.value.remedy
    assert not file.exists()
    file.write_bytes(kept)
    workspace = opened(tmp_path)
    assert_opens(workspace, sealed)
    workspace.close()


def test_a_missing_key_file_and_state_are_an_error_where_the_lake_has_rows(tmp_path: Path) -> None:
    """A backup that brought back the lake alone."""
    (tmp_path / "lake" / "acme").mkdir(parents=True)
    with pytest.raises(KeyMissing):
        opened(tmp_path)


@pytest.mark.parametrize("wrong", [B, None], ids=["another", "the file's, which is none"])
def test_a_wrong_master_key_is_refused_when_the_home_is_opened(
    tmp_path: Path, wrong: bytes | None
) -> None:
    filled(tmp_path, A)
    with pytest.raises((MasterKeyChanged, KeyMissing)) as refusal:
        opened(tmp_path, wrong)
    assert "APPRENTICE_MASTER_KEY" in refusal.value.remedy


def test_a_given_key_beside_the_right_key_file_is_refused_not_replaced(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(MasterKeyChanged) as refusal:
        opened(tmp_path, B)
    assert "unset it" in refusal.value.remedy


def test_a_home_made_before_there_were_marks_is_checked_and_marked(tmp_path: Path) -> None:
    from sqlalchemy import create_engine, text

    sealed = filled(tmp_path, A)
    engine = create_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM meta WHERE name = 'master-key'"))
    engine.dispose()
    with pytest.raises(MasterKeyChanged):
        opened(tmp_path, B)
    workspace = opened(tmp_path, A)
    assert_opens(workspace, sealed)
    assert workspace.state.data_keys.mark() == MasterKey(A).mark
    workspace.close()


def test_rotation_into_the_key_file_touches_no_row_and_running_processes_go_on(
    tmp_path: Path,
) -> None:
    sealed = filled(tmp_path)
    old = (tmp_path / "keys" / "master.key").read_bytes()
    running, other = opened(tmp_path), opened(tmp_path)
    running.vault.open(sealed["acme"], tenant="acme", **PLACE)
    wrapped = running.state.data_keys.wrapped_keys("globex")[1]
    assert rotate(other) == len(TENANTS)
    assert (tmp_path / "keys" / "master.key").read_bytes() != old
    for tenant in TENANTS:
        running.vault.refresh(tenant)
    assert_opens(running, sealed)
    new = running.vault.seal(b"late", tenant="late", **PLACE)
    fresh = opened(tmp_path)
    assert_opens(fresh, {**sealed, "late": new})
    for each in (running, other, fresh):
        each.close()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(old in file.read_bytes() or wrapped in file.read_bytes() for file in files)


def test_rotation_to_a_given_key_leaves_running_processes_what_they_know_and_says_the_rest(
    tmp_path: Path,
) -> None:
    """A process with the old key cannot add a data key that nobody could open afterwards."""
    sealed = filled(tmp_path, A)
    running, other = opened(tmp_path, A), opened(tmp_path, A)
    assert_opens(running, sealed)
    assert rotate(other, B) == len(TENANTS)
    assert_opens(running, sealed)
    with pytest.raises(MasterKeyChanged, match="another master key") as refusal:
        running.vault.seal(b"x", tenant="late", **PLACE)
    assert "restarted" in refusal.value.remedy
    assert running.state.data_keys.wrapped_keys("late") == {}
    with pytest.raises(MasterKeyChanged):
        opened(tmp_path, A)
    fresh = opened(tmp_path, B)
    assert_opens(fresh, sealed)
    for each in (running, other, fresh):
        each.close()


def test_from_the_file_to_a_given_key_and_back(tmp_path: Path) -> None:
    sealed = filled(tmp_path)
    for start, new in ((None, A), (A, B), (B, None), (None, None)):
        workspace = opened(tmp_path, start)
        rotate(workspace, new)
        workspace.close()
        workspace = opened(tmp_path, new)
        assert_opens(workspace, sealed)
        workspace.close()
        assert (tmp_path / "keys" / "master.key").exists() == (new is None)


DIE = """
import os, signal, sys
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.master_key import load_master_key, rotate_master_key
from apprentice_pipeline.store.workspace import Workspace
workspace = Workspace.open(load_settings(os.environ))
keys, folder = workspace.state.data_keys, workspace.home.keys
current = load_master_key(None, folder, keys, has_data=True)
new = bytes.fromhex(sys.argv[2]) or None
def die(step):
    if step == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "rewrapping":
    unwrap, seen = current.unwrap, []
    class Dying:
        mark = current.mark
        def unwrap(self, *place):
            seen.append(place)
            if len(seen) == 2:
                die("rewrapping")
            return unwrap(*place)
    current = Dying()
rotate_master_key(current, folder, keys, new=new, on_step=die)
"""


@pytest.mark.parametrize(
    ("step", "new"),
    [
        *((step, None) for step in (*STEPS, "rewrapping")),
        *((step, B) for step in (*STEPS[1:], "rewrapping")),  # nothing is drafted: it is given
    ],
)
def test_a_rotation_killed_at_any_step_leaves_a_home_that_opens(
    tmp_path: Path, step: str, new: bytes | None
) -> None:
    sealed = filled(tmp_path)
    process = child(DIE, tmp_path, step, (new or b"").hex())
    with process:
        assert process.wait(60) == -signal.SIGKILL
    committed = step in ("rewrapped", "settled")
    workspace = opened(tmp_path, new if committed else None)
    assert_opens(workspace, sealed)
    assert not committed or new is not None or not (tmp_path / "keys" / DRAFT).exists()
    assert rotate(workspace) == len(TENANTS)
    workspace.close()
    workspace = opened(tmp_path)
    assert_opens(workspace, sealed)
    workspace.close()


def test_rotations_at_once_take_turns_and_the_second_is_told(tmp_path: Path) -> None:
    """The one that waited holds a key that is no more in force, and must not harm the new one."""
    sealed = filled(tmp_path)
    first, second = opened(tmp_path), opened(tmp_path)
    keys, folder = second.state.data_keys, second.home.keys
    stale = load_master_key(None, folder, keys, has_data=True)
    reached, failures = threading.Event(), []

    def late() -> None:
        reached.wait(60)
        try:
            rotate_master_key(stale, folder, keys)
        except MasterKeyChanged as error:
            failures.append(error)

    waiting = threading.Thread(target=late)
    waiting.start()
    rotate(first, on_step=lambda _step: reached.set())
    waiting.join(60)
    assert len(failures) == 1
    fresh = opened(tmp_path)
    assert_opens(fresh, sealed)
    for each in (first, second, fresh):
        each.close()


def test_a_writer_with_an_old_master_key_is_kept_out_of_the_database(state: State) -> None:
    """On SQLite and PostgreSQL alike."""
    keys = state.data_keys
    old, new = MasterKey(A), MasterKey(B)
    keys.add_wrapped_key("acme", 1, old.wrap("acme", 1, bytes(32)), mark=old.mark)
    with pytest.raises(MasterKeyChanged):
        keys.rewrap(new.mark, old.mark, lambda _t, _v, wrapped: wrapped)
    assert keys.rewrap(old.mark, new.mark, lambda t, v, _: new.wrap(t, v, bytes(32))) == 1
    with pytest.raises(MasterKeyChanged):
        keys.add_wrapped_key("late", 1, old.wrap("late", 1, bytes(32)), mark=old.mark)
    assert keys.wrapped_keys("late") == {}
    assert new.unwrap("acme", 1, keys.wrapped_keys("acme")[1]) == bytes(32)
