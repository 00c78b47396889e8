"""This node's spools into the lake, with whatever their workers left behind.

Belongs here: who reads what a dead worker took in and had not read, and counts it. Does not:
a drain (`store.drain`), reading (`calls`), when to drain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from apprentice_pipeline.reading.calls import ExchangeReader
from apprentice_pipeline.records import date_of, now_us
from apprentice_pipeline.store.drain import DrainReport, drain
from apprentice_pipeline.store.recovery import Recover
from apprentice_pipeline.store.spool_writer import SpoolWriter
from apprentice_pipeline.store.unread import Counts, Stream, spent
from apprentice_pipeline.store.workspace import Workspace


def recoverer(workspace: Workspace) -> Recover:
    """Makes rows of what a dead worker of this node had taken in and not read."""

    def recover(path: Path) -> None:
        read = ExchangeReader.of(workspace.config)
        with contextlib.closing(SpoolWriter(path, workspace.vault, read)) as writer:
            try:
                writer.recover()
            finally:  # part of it may be done
                _count(workspace, writer.recovered())

    return recover


def _count(workspace: Workspace, counts: Mapping[Stream, Counts]) -> None:
    """As a worker counts what its writer tells (`gateway.tally`). Raises: StoreError."""
    at_us = now_us()
    day, events, spending = date_of(at_us), {}, {}
    for (tenant, namespace), increments in counts.items():
        told, money = spent(increments)
        if money is not None:
            spending[tenant, namespace] = money
        events[tenant, namespace, day] = told
        if "lost" in told:
            workspace.state.add_alert(tenant, namespace, "capture_failed", _LOST, now_us=at_us)
    if events:
        workspace.state.count_all(events)
    if spending:
        zone = ZoneInfo(workspace.config.budget.timezone)
        workspace.state.meter_all(spending, "passthrough", at_us, zone=zone)


def drain_spools(workspace: Workspace) -> DrainReport:
    """Moves what every spool of this node holds into the lake. Raises: StoreError."""
    return drain(
        workspace.home.spool,
        workspace.lake,
        erased_of=workspace.state.erased_of,
        recover=recoverer(workspace),
    )


_LOST: Final = "exchanges that a dead worker had taken in could not be read or sealed"
