"""What was erased, and what is being erased: the state database's side of it.

Belongs here: tombstones, and the documents of erasures under way, in transactions. Does not:
erasing (`erasure`), what a drain asks before each append (`erased`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, func, select, update

from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import META, TOMBSTONES

_STONES: Final = uuid.UUID("6d0b6a5e-4b1f-5b7e-9d6a-7f1f2a7f9c11")
_ID_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Proof of an erasure. An empty `pair_id` is a whole namespace, an empty namespace too a
    whole tenant."""

    tenant: str
    namespace: str
    pair_id: str
    erased_at_us: int
    rows: int


def add_tombstones(database: Database, stones: Sequence[Tombstone], *, once: bool) -> None:
    """See `State.add_tombstones`."""
    if not stones:
        return
    rows = [
        {
            "id": _stone_id(stone) if once else uuid.uuid4().hex,
            "tenant": stone.tenant,
            "namespace": stone.namespace,
            "pair_id": stone.pair_id,
            "erased_at_us": stone.erased_at_us,
            "rows": stone.rows,
        }
        for stone in stones
    ]
    with database.write() as connection:
        connection.execute(database.upsert(TOMBSTONES).on_conflict_do_nothing(), rows)


def _stone_id(stone: Tombstone) -> str:
    """The same for the same pair, whoever buries it."""
    return str(uuid.uuid5(_STONES, "/".join((stone.tenant, stone.namespace, stone.pair_id))))


def tombstones(database: Database, tenant: str, namespace: str | None) -> list[Tombstone]:
    """See `State.tombstones`."""
    query = select(TOMBSTONES).where(TOMBSTONES.c.tenant == tenant)
    if namespace is not None:
        query = query.where(TOMBSTONES.c.namespace.in_([namespace, ""]))
    with database.read() as connection:
        rows = connection.execute(query.order_by(TOMBSTONES.c.erased_at_us, TOMBSTONES.c.id))
        return [_tombstone(row) for row in rows]


def erased_pairs(
    database: Database, tenant: str, namespace: str, pair_ids: Iterable[str]
) -> set[str]:
    """See `State.erased_pairs`."""
    wanted = sorted(set(pair_ids))
    found: set[str] = set()
    with database.read() as connection:
        for start in range(0, len(wanted), _ID_CHUNK):
            chunk = wanted[start : start + _ID_CHUNK]
            query = select(TOMBSTONES.c.pair_id).where(
                TOMBSTONES.c.tenant == tenant,
                TOMBSTONES.c.namespace == namespace,
                TOMBSTONES.c.pair_id.in_(chunk),
            )
            found.update(connection.execute(query).scalars())
    return found


def put_erasure(database: Database, scope: Sequence[str], document: str) -> None:
    """See `State.put_erasure`."""
    values = {"name": _erasure_name(scope), "value": document}
    with database.write() as connection:
        statement = database.upsert(META).values(values)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"value": document})
        )


def erasure(database: Database, scope: Sequence[str]) -> str | None:
    """See `State.erasure`."""
    query = select(META.c.value).where(META.c.name == _erasure_name(scope))
    with database.read() as connection:
        found: str | None = connection.execute(query).scalar()
    return found


def end_erasure(database: Database, scope: Sequence[str]) -> None:
    """See `State.end_erasure`."""
    with database.write() as connection:
        connection.execute(delete(META).where(META.c.name == _erasure_name(scope)))


def _erasure_name(scope: Sequence[str]) -> str:
    return "erasure/" + "/".join(scope)


def count_erased(database: Database, stones: Sequence[Tombstone]) -> None:
    """See `State.count_erased`."""
    with database.write() as connection:
        for stone in stones:
            connection.execute(
                update(TOMBSTONES)
                .where(
                    TOMBSTONES.c.tenant == stone.tenant,
                    TOMBSTONES.c.namespace == stone.namespace,
                    TOMBSTONES.c.pair_id == stone.pair_id,
                    TOMBSTONES.c.erased_at_us == stone.erased_at_us,
                )
                .values(rows=stone.rows)
            )


def erased_among(
    database: Database, tenant: str, named: Iterable[tuple[str, str]]
) -> tuple[dict[str, int], set[tuple[str, str]]]:
    """The last erasure of each namespace (`""`: of the tenant), and those of `named`, each a
    namespace and a pair id, that were erased by id."""
    mine = TOMBSTONES.c.tenant == tenant
    newest = func.max(TOMBSTONES.c.erased_at_us)
    whole = select(TOMBSTONES.c.namespace, newest).where(mine, TOMBSTONES.c.pair_id == "")
    columns = (TOMBSTONES.c.namespace, TOMBSTONES.c.pair_id)
    with database.read() as connection:
        if connection.execute(select(TOMBSTONES.c.id).where(mine).limit(1)).first() is None:
            return {}, set()
        by_namespace = connection.execute(whole.group_by(TOMBSTONES.c.namespace))
        scopes: dict[str, int] = {row[0]: row[1] for row in by_namespace}
        wanted = set(named)
        ids = sorted({pair_id for _, pair_id in wanted})
        found = set[tuple[str, str]]()
        for start in range(0, len(ids), _ID_CHUNK):
            chunk = TOMBSTONES.c.pair_id.in_(ids[start : start + _ID_CHUNK])
            rows = connection.execute(select(*columns).where(mine, chunk))
            found.update((row.namespace, row.pair_id) for row in rows)
    return scopes, found & wanted


def _tombstone(row: Row[Any]) -> Tombstone:
    return Tombstone(row.tenant, row.namespace, row.pair_id, row.erased_at_us, row.rows)
