"""Whose turn a recurring round of work is, agreed on by every process of every node.

Belongs here: turns, leases and what became of the last round, in the state database. Does not:
any work, when to look.
Promise: of all that claim a round that is due, one gets it. A holder that dies loses its turn when
its lease ends, and the round is due again; a clock that was set neither blocks a round for ever
nor skips one for longer than its interval.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from sqlalchemy import Connection, select

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import META

MAINTENANCE: Final = "maintenance"
"""The round of retention and compaction, whoever does it."""
LEASE_S: Final = 120.0
RENEW_S: Final = 20.0
"""A holder that died frees its turn after `LEASE_S`; one that lives says so this often."""
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Round:
    """A round as the state database knows it; times in UTC microseconds.

    `holder` has the turn until `until_us`; `done_us` is when one last came to its good end (0:
    never), `failures` how many did not since the beginning.
    """

    holder: str = ""
    until_us: int = 0
    due_us: int = 0
    done_us: int = 0
    failures: int = 0


class Rounds:
    """The rounds of one state database, by name. Safe across threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, name: str) -> Round | None:
        """The round, None before it was first claimed. Raises: StoreError."""
        with self._database.read() as connection:
            return _read(connection, name)

    def claim(self, name: str, *, every_us: int, lease_us: int, now_us: int) -> Round | None:
        """The round with the turn now held, or None: it is not due, or somebody holds it.

        One that was never claimed is due `every_us` from now; where that is 0, any is due.
        Raises: StoreError.
        """
        known = self.find(name)
        if known is not None and not _is_free(known, every_us, lease_us, now_us):
            return None
        with self._database.write(f"round/{name}") as connection:
            known = _read(connection, name)
            if known is None and every_us:
                self._write(connection, name, Round(due_us=now_us + every_us))
                return None
            known = known or Round()
            if not _is_free(known, every_us, lease_us, now_us):
                return None
            mine = replace(known, holder=uuid.uuid4().hex, until_us=now_us + lease_us)
            self._write(connection, name, mine)
            return mine

    def renew(self, name: str, mine: Round, *, until_us: int) -> None:
        """Keeps the turn longer, unless it was lost. Raises: StoreError."""
        self._change(name, mine, until_us=until_us)

    @contextlib.contextmanager
    def kept(self, name: str, mine: Round) -> Iterator[None]:
        """Keeps the turn for as long as the work in here takes."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(RENEW_S):
                with contextlib.suppress(StoreError):  # the lease outlives some silence
                    self.renew(name, mine, until_us=now_us() + int(LEASE_S * _US))

        keeper = threading.Thread(target=renew, name=f"keep-{name}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def end(self, name: str, mine: Round, *, now_us: int, every_us: int) -> None:
        """The round is done: the next is due `every_us` from now. Raises: StoreError."""
        self._change(name, mine, holder="", until_us=0, done_us=now_us, due_us=now_us + every_us)

    def fail(self, name: str, mine: Round, *, due_us: int) -> None:
        """The round came to no good end, and is due again then. Raises: StoreError."""
        failures = mine.failures + 1
        self._change(name, mine, holder="", until_us=0, due_us=due_us, failures=failures)

    def give_back(self, name: str, mine: Round) -> None:
        """The turn is anybody's again, at once. Raises: StoreError."""
        self._change(name, mine, holder="", until_us=0)

    def _change(self, name: str, mine: Round, **changes: int | str) -> None:
        with self._database.write(f"round/{name}") as connection:
            known = _read(connection, name)
            if known is not None and known.holder == mine.holder:
                self._write(connection, name, replace(known, **changes))  # type: ignore[arg-type]

    def _write(self, connection: Connection, name: str, told: Round) -> None:
        row = {"name": f"round/{name}", "value": json.dumps(asdict(told))}
        statement = self._database.upsert(META).values(row)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"value": row["value"]})
        )


def _read(connection: Connection, name: str) -> Round | None:
    query = select(META.c.value).where(META.c.name == f"round/{name}")
    value = connection.execute(query).scalar()
    return None if value is None else Round(**json.loads(value))


def _is_free(known: Round, every_us: int, lease_us: int, now_us: int) -> bool:
    """Whether it is due and nobody's. What lies further ahead than it can was noted by a clock
    that was set back since."""
    waits = 0 < known.due_us - now_us <= every_us
    held = 0 < known.until_us - now_us <= lease_us
    return not waits and not held
