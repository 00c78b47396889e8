"""One round of maintenance: `python -m apprentice_pipeline.gateway.maintenance_process`.

Belongs here: opening what a round needs, its priority, leaving when the server does. Does not: the
round (`stages.maintenance`), whose turn it is (`maintenance`). Orders come on standard input, which
then stays open: its end means that the server is gone. What became of it is JSON on standard
output: kinds, counts and remedies, no content.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import BinaryIO

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import maintenance
from apprentice_pipeline.store.handover import taken_over
from apprentice_pipeline.store.secrecy import keep_memory_private
from apprentice_pipeline.store.workspace import Workspace

NICE = 19


def main(source: BinaryIO) -> int:
    """Does one round. Returns the exit status."""
    keep_memory_private()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # threads that come later inherit it
    line = source.readline()
    if not line:
        return 1
    threading.Thread(target=_leave_at_end, args=(source,), daemon=True).start()
    try:
        settings, orders = taken_over(line)
        at_us = now_us()
        with contextlib.closing(Workspace.open(settings)) as workspace:
            at_least = maintenance.round_of_day(orders["previous_us"], at_us)
            done = maintenance.compact(workspace, at_us=at_us, at_least=at_least)
    except ApprenticeError as error:
        _say(message=error.message, remedy=error.remedy)
        return 1
    except Exception as error:  # the process's edge: a traceback might quote data
        _say(message=f"unexpected {type(error).__name__}", remedy="")
        return 1
    _say(tables=done.tables, expired_pairs=done.expired_pairs)
    return 0


def _leave_at_end(source: BinaryIO) -> None:
    """Ends this process with the server, at any instant: every step of a round may be its last.

    Without `source`'s buffer, whose lock would be wanted when this process ends first.
    """
    while os.read(source.fileno(), 1):
        continue
    os._exit(1)


def _say(**told: str | int) -> None:
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))
