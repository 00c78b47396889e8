"""The server's maintenance: retention and compaction without anybody's schedule.

Belongs here: asking for the turn (`store.rounds`: one node of all that share the lake has it), the
process that does a round (`maintenance_process`), telling of failures. Does not: the round
(`stages.maintenance`).
Promise: calls never wait for a round: it is a process of its own, at the lowest priority, gone when
it is done. One that fails or dies is counted, told with its remedy, and tried again. Dagster's
`compaction_schedule` takes the same turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.store.handover import handed_over, shown
from apprentice_pipeline.store.rounds import LEASE_S, MAINTENANCE, Round
from apprentice_pipeline.store.workspace import Workspace

LOOK_S = 10.0
RETRY_S = 300.0
_PROGRAM = "apprentice_pipeline.gateway.maintenance_process"
_WATCH_S = 0.2
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a round came to no good end, and what to do."""

    message: str
    remedy: str


class Maintenance:
    """One server's part in the rounds. One thread; `look` is called again and again."""

    def __init__(self, workspace: Workspace, stopping: threading.Event) -> None:
        self._workspace = workspace
        self._stopping = stopping
        self._every_s = workspace.config.store.maintenance_interval_s

    @property
    def look_s(self) -> float:
        """How often `look` should be called."""
        return min(LOOK_S, self._every_s)

    def look(self) -> None:
        """Does the round if it is due and this node's turn; returns at its end, or at `stopping`.

        Raises: StoreError when the state database does not answer.
        """
        rounds = self._workspace.state.rounds
        mine = rounds.claim(
            MAINTENANCE,
            every_us=int(self._every_s * _US),
            lease_us=int(LEASE_S * _US),
            now_us=now_us(),
        )
        if mine is None:
            return
        process = self._start(mine)
        try:
            with rounds.kept(MAINTENANCE, mine):
                finished = self._wait(process)
        finally:
            process.kill()
            out, _ = process.communicate()
        if not finished:
            rounds.give_back(MAINTENANCE, mine)
        elif failure := _failure(process.returncode, out):
            self._tell(mine, failure)
        else:
            rounds.end(MAINTENANCE, mine, now_us=now_us(), every_us=int(self._every_s * _US))

    def _start(self, mine: Round) -> subprocess.Popen[bytes]:
        settings = self._workspace.settings
        process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=shown(settings, os.environ),
            process_group=0,  # as the workers: what is nice here is nice to them
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(handed_over(settings, previous_us=mine.done_us))
            process.stdin.flush()  # it stays open: its end tells the process to leave
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it has ended; False once it is to be stopped."""
        while process.poll() is None:
            if self._stopping.wait(_WATCH_S):
                return False
        return True

    def _tell(self, mine: Round, failure: _Failure) -> None:
        pause_s, at_us = min(RETRY_S, self._every_s), now_us()
        remedy = f"; {failure.remedy}" if failure.remedy else ""
        sys.stderr.write(
            f"apprentice gateway: retention and compaction failed: {failure.message}{remedy}; "
            f"trying again in {pause_s:.0f} s\n"
        )
        sys.stderr.flush()
        state = self._workspace.state
        with contextlib.suppress(ApprenticeError):
            message = f"retention and compaction failed: {failure.message}{remedy}"
            state.add_alert("", "", "gateway_maintenance", message, now_us=at_us)
        state.rounds.fail(MAINTENANCE, mine, due_us=at_us + int(pause_s * _US))


def _failure(status: int, out: bytes) -> _Failure | None:
    """What the process told of its end; None where all went well."""
    if status == 0:
        return None
    try:
        told = json.loads(out)
        return _Failure(str(told["message"]), str(told["remedy"]))
    except (ValueError, KeyError, TypeError):
        return _Failure(
            f"its process ended with status {status}",
            "see standard error; with -9 it was killed, perhaps for memory",
        )
