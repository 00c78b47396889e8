"""The server's drains: how often, and what they tell.

Belongs here: the pace of the drains of one node, their alert. Does not: a drain (`reading.spools`).
"""

from __future__ import annotations

from collections.abc import Callable

from apprentice_pipeline.reading.spools import drain_spools
from apprentice_pipeline.store.workspace import Workspace

STEADY_DRAINS = 8
"""Drains in a row that found rows, after which traffic counts as steady."""
STEADY_FACTOR = 4


class Draining:
    """One server's drains. One thread; `look` is called again and again, every `pause_s`.

    Under steady traffic they come less often: every append makes the table's log longer, which
    every later append lists, and another small file. `alert` is told a kind and a message.
    """

    def __init__(self, workspace: Workspace, alert: Callable[[str, str], None]) -> None:
        self._workspace = workspace
        self._alert = alert
        self._interval_s = workspace.config.store.drain_interval_s
        self._busy = 0

    def pause_s(self) -> float:
        """Seconds until the next drain is due."""
        return self._interval_s * (STEADY_FACTOR if self._busy >= STEADY_DRAINS else 1)

    def look(self) -> None:
        """Moves what the spools hold now into the lake. Raises: StoreError."""
        report = drain_spools(self._workspace)
        self._busy = self._busy + 1 if report.rows else 0
        if report.failed or report.rejected or report.damaged:
            self._alert("drain", f"rows could not be moved into the lake: {report.error}")
