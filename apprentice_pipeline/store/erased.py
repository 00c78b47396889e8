"""Whether a row that waits in a spool was erased meanwhile, maybe by another node.

Belongs here: the decision, from values. Does not: reading tombstones (`state`), removing rows.
A row is erased when its pair is, when it is older than the erasure of its namespace or tenant, or
when it was sealed with a key that went with its tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import orjson

from apprentice_pipeline.store.sealing import SealedRow
from apprentice_pipeline.vault import key_version

_TIMES = ("created_at_us", "decided_at_us")


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased of a tenant, as far as some rows are concerned.

    `newest_key`: the newest data key that went; `scopes`: the last erasure of a namespace (`""`:
    of the tenant), UTC microseconds; `pairs`: those of the rows' (namespace, pair id) erased by id.
    """

    newest_key: int = 0
    scopes: Mapping[str, int] = field(default_factory=dict)
    pairs: AbstractSet[tuple[str, str]] = frozenset()

    def covers(self, row: SealedRow) -> bool:
        """Whether the row must not enter the lake, or must leave it."""
        if (row.namespace, row.pair_id) in self.pairs:
            return True
        sealed = [part for part in (row.first, row.second) if part]
        if any(key_version(part) <= self.newest_key for part in sealed):
            return True
        until_us = max(self.scopes.get("", 0), self.scopes.get(row.namespace, 0))
        return until_us > 0 and _time(row) < until_us


NOTHING: Final = Erased()
ErasedOf = Callable[[str, Sequence[SealedRow]], Erased]
"""Tells what was erased of a tenant that concerns these rows of it (`State.erased_of`)."""


def nothing_erased(tenant: str, rows: Sequence[SealedRow]) -> Erased:  # noqa: ARG001 - an ErasedOf
    """For a lake that nothing is ever erased from."""
    return NOTHING


def _time(row: SealedRow) -> int:
    facts = orjson.loads(row.facts)
    return next((int(facts[name]) for name in _TIMES if name in facts), 0)
