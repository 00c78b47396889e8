"""What was counted as not kept comes into the state database once, whoever is killed and when."""

from __future__ import annotations

import mmap
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apprentice_pipeline.store.loss_files import LossFile, add_left_over, make_folder, remove_folder
from apprentice_pipeline.store.workspace import Workspace

DAY = "2026-01-02"
OPEN = """
import mmap, os, sys
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.loss_files import LossFile, add_left_over
from apprentice_pipeline.store.workspace import Workspace
workspace = Workspace.open(load_settings({"APPRENTICE_HOME": sys.argv[1]}))
folder, state = workspace.home.losses, workspace.state
"""
COUNTING = """
losses, waiting, number = LossFile.open(folder), {}, 0
with open(sys.argv[2], "r+b") as file:
    told = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
while True:
    for number in range(number + 1, number + 20):
        place = ("acme", f"n{number % 3}", sys.argv[3])
        losses.add(place, {"lost": 1, "requests": 1})
        told[0] = number
        sums = waiting.setdefault(place, {"lost": 0, "requests": 0})
        for name in sums:
            sums[name] += 1
    if number % 5:
        state.count_all(waiting | losses.marks(waiting))
        waiting = {}
"""
ADDING = """
print("ready", flush=True)
sys.stdin.read(1)
add_left_over(folder, state)
"""


@pytest.fixture
def folder(workspace: Workspace) -> Iterator[Path]:
    folder = workspace.home.losses
    make_folder(folder)
    if not folder.is_dir():
        pytest.skip("this system has no folder in memory")
    yield folder
    for file in folder.iterdir():
        file.unlink()
    remove_folder(folder)
    assert not folder.exists()


def counted(workspace: Workspace, name: str = "lost") -> float:
    return workspace.state.counters("acme").get(name, 0)


def python(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def killed_counting(workspace: Workspace, tmp_path: Path, enough: int) -> int:
    """How many losses a process had told of when it was killed."""
    file = tmp_path / "told"
    file.write_bytes(bytes(mmap.PAGESIZE))
    process = python(COUNTING, str(workspace.home.root), str(file), DAY)
    end = time.monotonic() + 60

    def told() -> int:
        return int(struct.unpack_from("=Q", file.read_bytes())[0])

    while told() < enough:
        assert process.poll() is None
        assert time.monotonic() < end
    process.kill()
    process.communicate()
    return told()


@pytest.mark.parametrize("seed", range(4))
def test_a_process_killed_at_any_instant_has_counted_its_losses_once(
    workspace: Workspace, folder: Path, tmp_path: Path, seed: int
) -> None:
    told = killed_counting(workspace, tmp_path, random.Random(seed).randrange(1, 3_000))
    written = counted(workspace)
    add_left_over(folder, workspace.state)
    assert told <= counted(workspace) <= told + 1
    assert counted(workspace, "requests") <= told  # of these what waited in memory is gone
    assert list(folder.iterdir()) == []
    before = counted(workspace)
    add_left_over(folder, workspace.state)
    assert counted(workspace) == before
    told_of = {alert.kind for alert in workspace.state.alerts("acme")}
    assert told_of == ({"capture_failed"} if before > written else set())


def test_who_adds_what_is_left_may_be_killed_at_any_instant_too(
    workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    dice, told, deaths = random.Random(7), 0, 0
    for _ in range(4):
        told += killed_counting(workspace, tmp_path, dice.randrange(500))
    for _ in range(10):
        process = python(ADDING, str(workspace.home.root))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write(b"\n")
        process.stdin.flush()
        time.sleep(dice.uniform(0, 0.03))
        process.kill()
        process.communicate()
        deaths += process.returncode == -signal.SIGKILL
    assert deaths
    add_left_over(folder, workspace.state)
    assert told <= counted(workspace) <= told + 4
    assert list(folder.iterdir()) == []


def test_the_living_are_left_alone_and_marks_are_nobody_s_counters(
    workspace: Workspace, folder: Path
) -> None:
    losses = LossFile.open(folder)
    assert losses is not None
    for place in (("acme", "tickets", DAY), ("", "", DAY)):
        losses.add(place, {"lost": 1, "at_risk": 2})
        workspace.state.count_all(losses.marks({place: {"lost": 1, "at_risk": 2, "pairs": 3}}))
    add_left_over(folder, workspace.state)
    assert len(list(folder.iterdir())) == 1
    assert workspace.state.counters("acme") == workspace.state.counters("") == {}
    losses._lock.release()
    add_left_over(folder, workspace.state)  # all of it is marked
    assert workspace.state.counters("acme") == workspace.state.counters("") == {}
    assert list(folder.iterdir()) == []


def test_what_is_no_loss_makes_no_mark(workspace: Workspace, folder: Path) -> None:
    losses = LossFile.open(folder)
    assert losses is not None
    losses.add(("acme", "tickets", DAY), {"pairs": 1})
    assert losses.marks({("acme", "tickets", DAY): {"pairs": 1, "lost": 0}}) == {}
    [file] = folder.iterdir()
    assert file.stat().st_size == 0


def test_without_a_folder_there_is_no_file_and_nothing_to_add(workspace: Workspace) -> None:
    assert LossFile.open(workspace.home.losses) is None
    add_left_over(workspace.home.losses, workspace.state)
    remove_folder(workspace.home.losses)


def test_the_next_server_finds_the_folder_of_the_last(workspace: Workspace, folder: Path) -> None:
    there = folder.resolve()
    make_folder(folder)
    assert folder.resolve() == there
    assert there.stat().st_mode & 0o777 == 0o700
    there.rmdir()  # the machine started anew
    make_folder(folder)
    assert folder.resolve() == there.resolve()
    assert folder.is_dir()
