"""This node's spools into the lake, with whatever their workers left behind.

Belongs here: who reads what a dead worker took in and had not read. Does not: a drain
(`store.drain`), reading (`calls`), when to drain.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from apprentice_pipeline.reading.calls import ExchangeReader
from apprentice_pipeline.store.drain import DrainReport, drain
from apprentice_pipeline.store.recovery import Recover
from apprentice_pipeline.store.spool_writer import SpoolWriter
from apprentice_pipeline.store.workspace import Workspace


def recoverer(workspace: Workspace) -> Recover:
    """Makes rows of what a dead worker of this node had taken in and not read."""

    def recover(path: Path) -> None:
        read = ExchangeReader.of(workspace.config)
        with contextlib.closing(SpoolWriter(path, workspace.vault, read)) as writer:
            writer.recover()

    return recover


def drain_spools(workspace: Workspace) -> DrainReport:
    """Moves what every spool of this node holds into the lake. Raises: StoreError."""
    return drain(
        workspace.home.spool,
        workspace.lake,
        erased_of=workspace.state.erased_of,
        recover=recoverer(workspace),
    )
