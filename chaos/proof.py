"""What was delivered against what was kept.

Belongs here: the comparison, pure; gathering its inputs from a home at rest. Does not: killing.
A violation names ids and counts, never content.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.forms import ASKED
from chaos.load import Delivered

if TYPE_CHECKING:
    from apprentice_pipeline.store.workspace import Workspace

_NAMED = 5
_ID = re.compile(rf"{ASKED}-\d{{8}}")


@dataclass(frozen=True, slots=True)
class Kept:
    """One row of the lake: its id, the id in its opened prompt ("" when it does not open), and
    whether it is a pair."""

    pair_id: str
    asked: str
    is_pair: bool


@dataclass(frozen=True, slots=True)
class Remains:
    """A home at rest after its drain: rows, spools that are not sound, rows that fit nowhere,
    rows that are still in a spool."""

    rows: Sequence[Kept]
    unreadable_spools: int = 0
    rejected_rows: int = 0
    stranded_rows: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found; all but the first four are violations."""

    delivered: int
    rows: int
    late: int = 0
    late_lost: int = 0
    lost: int = 0
    uncounted: int = 0
    doubled: int = 0
    strangers: int = 0
    unopened: int = 0
    unreadable_spools: int = 0
    rejected_rows: int = 0
    stranded_rows: int = 0
    examples: tuple[str, ...] = field(default=())

    @property
    def violations(self) -> int:
        """All of them."""
        return (
            self.lost
            + self.uncounted
            + self.doubled
            + self.strangers
            + self.unopened
            + self.unreadable_spools
            + self.rejected_rows
            + self.stranded_rows
        )


def judge(
    delivered: Sequence[Delivered],
    remains: Remains,
    timeout_s: float = math.inf,
    at_risk: int = 0,
) -> Verdict:
    """`lost`: delivered without a pair of that id; `late_lost`: the same of an answer that took
    `timeout_s` or longer (`late` are all of those), so that the gateway may have released it at
    risk; `uncounted`: how many more those are than the gateway counted as released `at_risk`;
    `doubled`: an id or a prompt in more than one row; `strangers`: the pair of that id holds
    another prompt; `unopened`: rows whose content does not open."""
    pairs = {row.pair_id: row.asked for row in remains.rows if row.is_pair}
    missing = [each for each in delivered if each.pair_id not in pairs]
    lost = [each.pair_id or each.asked for each in missing if each.seconds < timeout_s]
    strangers = [
        each.pair_id for each in delivered if pairs.get(each.pair_id, each.asked) != each.asked
    ]
    doubled = [
        *_repeated(row.pair_id for row in remains.rows),
        *_repeated(row.asked for row in remains.rows if row.asked),
    ]
    unopened = [row.pair_id for row in remains.rows if not row.asked]
    return Verdict(
        delivered=len(delivered),
        rows=len(remains.rows),
        late=sum(each.seconds >= timeout_s for each in delivered),
        late_lost=len(missing) - len(lost),
        uncounted=max(0, len(missing) - len(lost) - at_risk),
        lost=len(lost),
        doubled=len(doubled),
        strangers=len(strangers),
        unopened=len(unopened),
        unreadable_spools=remains.unreadable_spools,
        rejected_rows=remains.rejected_rows,
        stranded_rows=remains.stranded_rows,
        examples=tuple([*lost, *doubled, *strangers, *unopened][:_NAMED]),
    )


def gather(workspace: Workspace, tenant: str) -> Remains:
    """Drains what the dead left and reads every row back. For a home that nobody serves."""
    from apprentice_pipeline.reading.spools import drain_spools
    from apprentice_pipeline.store.drain import waiting_rows

    folder = workspace.home.spool
    report = drain_spools(workspace)
    damaged = len([file for file in folder.glob("*.db.damaged-*") if _is_database(file)])
    rows = workspace.lake.scan(tenant, "captures").select(
        "pair_id", "namespace", "input", "is_pair"
    )
    return Remains(
        rows=[_kept(workspace, tenant, row) for row in rows.collect().iter_rows(named=True)],
        unreadable_spools=max(damaged, report.damaged),
        rejected_rows=report.rejected,
        stranded_rows=waiting_rows(folder) + report.failed,
    )


def _is_database(file: Path) -> bool:
    return not file.name.endswith(("-wal", "-shm"))


def _kept(workspace: Workspace, tenant: str, row: dict[str, object]) -> Kept:
    from apprentice_pipeline.errors import ApprenticeError
    from apprentice_pipeline.store.sealing import open_field

    pair_id, sealed = str(row["pair_id"]), row["input"]
    assert isinstance(sealed, bytes)
    try:
        opened = open_field(
            workspace.vault,
            sealed,
            tenant=tenant,
            namespace=str(row["namespace"]),
            pair_id=pair_id,
            field="input",
        )
    except ApprenticeError:
        return Kept(pair_id, "", bool(row["is_pair"]))
    found = _ID.search(str(opened))
    return Kept(pair_id, found.group() if found else "", bool(row["is_pair"]))


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
