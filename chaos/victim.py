"""The gateway under attack: a real `apprentice serve`, its processes, their deaths.

Belongs here: starting it, finding its workers and their writers, kill -9. Does not: load, proof.
Processes are found by their parents in `/proc` and killed by id, never by name.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

KINDS: Final = ("worker", "workers", "writer", "supervisor", "everything")
"""Who dies: one worker; all of them; one worker's spool writer; the supervisor alone; all at
once."""
_PERIOD_S: Final = 0.01
_GONE_S: Final = 60.0
_STOP_S: Final = 60.0


class Victim:
    """A gateway that is started again whenever its supervisor was killed."""

    def __init__(self, environment: Mapping[str, str], workers: int) -> None:
        self.port = 0
        self._environment = dict(environment)
        self._workers = workers
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once requests are answered. Raises: RuntimeError when it does not come up."""
        command = ["serve", "--port", "0", "--workers", str(self._workers)]
        process = subprocess.Popen(
            [sys.executable, "-m", "apprentice_pipeline.cli", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self._process = process
        said = []
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found.group(1))
                threading.Thread(target=_read_on, args=(process,), daemon=True).start()
                return
        raise RuntimeError("the gateway does not start: " + "".join(said))

    def wait_until_whole(self) -> None:
        """Returns once every worker is there again. Raises: RuntimeError."""
        end = time.monotonic() + _GONE_S
        while len(self.workers()) < self._workers:
            if time.monotonic() > end:
                raise RuntimeError("killed workers do not come back")
            time.sleep(_PERIOD_S)

    def workers(self) -> list[int]:
        """The process ids of the workers that live."""
        return _children(self._pid, "gateway.worker")

    def writers(self) -> list[int]:
        """The process ids of the workers' spool writers."""
        return [pid for worker in self.workers() for pid in _children(worker, "gateway.writer")]

    def kill(self, kind: str, dice: random.Random) -> str:
        """Kills by `kind` (see `KINDS`), and starts again what cannot do so itself. Returns who
        died: a worker for its writer where all write themselves, "" where nobody was there."""
        if kind == "writer" and not self.writers():
            kind = "worker"
        victims = self._chosen(kind, dice)
        everybody = [*self.workers(), *self.writers()]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._pid in victims:
            self.port = 0
            assert self._process is not None
            self._process.wait()
            _wait_until_gone(everybody)
            self.start()
        return kind if victims else ""

    def stop(self) -> int:
        """Asks it to leave as an operator would; its exit status."""
        everybody = [*self.workers(), *self.writers()]
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(_STOP_S)
        _wait_until_gone(everybody)
        return status

    def destroy(self) -> None:
        """Leaves no process behind, whatever happened."""
        if self._process is None or self._process.poll() is not None:
            return
        everybody = [self._pid, *self.workers(), *self.writers()]
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _chosen(self, kind: str, dice: random.Random) -> list[int]:
        if kind == "supervisor":
            return [self._pid]
        if kind == "everything":
            return [self._pid, *self.workers(), *self.writers()]
        found = self.writers() if kind == "writer" else self.workers()
        if kind == "workers" or not found:
            return found
        return [dice.choice(found)]


def _read_on(process: subprocess.Popen[str]) -> None:
    """Empties the pipe, so that nobody waits for room in it."""
    assert process.stderr is not None
    with process.stderr as said:
        for _ in said:
            pass


def _children(pid: int, module: str) -> list[int]:
    return [child for child in _child_ids(pid) if module in _command(child)]


def _child_ids(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                yield from map(int, file.read_text().split())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _wait_until_gone(pids: list[int]) -> None:
    """A dead supervisor's workers leave once they have ended the answers under way."""
    end = time.monotonic() + _GONE_S
    while any(_command(pid) for pid in pids):
        if time.monotonic() > end:
            raise RuntimeError(f"a process outlives its supervisor by {_GONE_S:.0f} s")
        time.sleep(_PERIOD_S)
