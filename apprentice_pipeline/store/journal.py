"""What happened and is under way: counters, jobs, alerts, tombstones.

Belongs here: facts that reports and status pages read, in transactions. Does not: deciding
when to alert or what a job does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import ALERTS, COUNTERS, JOBS, META, TOMBSTONES

ALERT_WINDOW_US: Final = 3_600_000_000
"""Alerts of one kind within an hour are one alert, counted."""
ACTIVE: Final = ("queued", "running")
"""States of a job that is not at its end."""
MAX_LOG: Final = 200_000
"""Characters of a job's log that are kept, the newest."""
Place = tuple[str, str, str]
"""What a counter is of: tenant, namespace, day (`YYYY-MM-DD`)."""
_STONES: Final = uuid.UUID("6d0b6a5e-4b1f-5b7e-9d6a-7f1f2a7f9c11")
_ID_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work in the background; `state`: queued, running, done, failed."""

    id: str
    tenant: str
    namespace: str
    kind: str
    state: str
    request: dict[str, Any]
    result: dict[str, Any]
    log: str
    created_at_us: int
    updated_at_us: int


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know; `count` times within its window."""

    id: str
    tenant: str
    namespace: str
    kind: str
    message: str
    first_at_us: int
    last_at_us: int
    count: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Proof of an erasure. An empty `pair_id` is a whole namespace, an empty namespace too a
    whole tenant."""

    tenant: str
    namespace: str
    pair_id: str
    erased_at_us: int
    rows: int


def count(database: Database, entries: Mapping[Place, Mapping[str, int | float]]) -> None:
    """See `State.count_all`."""
    rows = [
        {"tenant": tenant, "namespace": namespace, "day": day, "name": name, "value": float(value)}
        for (tenant, namespace, day), increments in sorted(entries.items())
        for name, value in sorted(increments.items())
    ]
    if not rows:
        return
    statement = database.upsert(COUNTERS)
    added = statement.on_conflict_do_update(
        index_elements=["tenant", "namespace", "day", "name"],
        set_={"value": COUNTERS.c.value + statement.excluded.value},
    )
    with database.write() as connection:
        connection.execute(added, rows)


def counters(
    database: Database,
    tenant: str,
    namespace: str | None,
    since_day: str | None,
    until_day: str | None,
) -> dict[str, float]:
    """See `State.counters`."""
    query = select(COUNTERS.c.name, func.sum(COUNTERS.c.value)).where(COUNTERS.c.tenant == tenant)
    if namespace is not None:
        query = query.where(COUNTERS.c.namespace == namespace)
    if since_day is not None:
        query = query.where(COUNTERS.c.day >= since_day)
    if until_day is not None:
        query = query.where(COUNTERS.c.day <= until_day)
    with database.read() as connection:
        rows = connection.execute(query.group_by(COUNTERS.c.name)).all()
        return {name: float(value) for name, value in rows}


def forget_counters(database: Database, tenant: str) -> None:
    """See `State.forget_counters`."""
    with database.write() as connection:
        connection.execute(delete(COUNTERS).where(COUNTERS.c.tenant == tenant))


def create_job(
    database: Database,
    *,
    tenant: str,
    namespace: str,
    kind: str,
    request: Mapping[str, Any],
    now_us: int,
) -> Job:
    """See `State.create_job`."""
    job = _new(tenant, namespace, kind, request, now_us)
    with database.write() as connection:
        _insert(connection, job)
    return job


def start_job(
    database: Database,
    *,
    tenant: str,
    namespace: str,
    kind: str,
    request: Mapping[str, Any],
    now_us: int,
) -> tuple[Job, bool]:
    """See `State.start_job`."""
    under_way = select(JOBS).where(
        JOBS.c.tenant == tenant,
        JOBS.c.namespace == namespace,
        JOBS.c.kind == kind,
        JOBS.c.state.in_(ACTIVE),
    )
    newest_first = under_way.order_by(JOBS.c.created_at_us.desc()).limit(1)
    with database.write(f"jobs/{kind}/{tenant}/{namespace}") as connection:
        row = connection.execute(newest_first).first()
        if row is not None:
            return _job(row), False
        job = _new(tenant, namespace, kind, request, now_us)
        _insert(connection, job)
    return job, True


def _new(tenant: str, namespace: str, kind: str, request: Mapping[str, Any], now_us: int) -> Job:
    return Job(
        id=f"job_{uuid.uuid4().hex}",
        tenant=tenant,
        namespace=namespace,
        kind=kind,
        state="queued",
        request=dict(request),
        result={},
        log="",
        created_at_us=now_us,
        updated_at_us=now_us,
    )


def _insert(connection: Connection, job: Job) -> None:
    values = asdict(job) | {
        "request": json.dumps(job.request),
        "result": json.dumps(job.result),
    }
    connection.execute(JOBS.insert().values(values))


def update_job(
    database: Database,
    job_id: str,
    *,
    state: str | None,
    log: str | None,
    result: Mapping[str, Any] | None,
    now_us: int,
) -> Job:
    """See `State.update_job`."""
    with database.write(f"job/{job_id}") as connection:
        row = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).first()
        if row is None:
            raise StoreError(f"there is no job {job_id}", remedy="list them with `status`")
        lines = row.log if log is None else (row.log + log.rstrip("\n") + "\n")[-MAX_LOG:]
        merged = json.loads(row.result) | dict(result or {})
        change = {
            "state": state or row.state,
            "log": lines,
            "result": json.dumps(merged),
            "updated_at_us": now_us,
        }
        connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(change))
        row = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
    return _job(row)


def job(database: Database, job_id: str, tenant: str | None) -> Job | None:
    """See `State.job`."""
    query = select(JOBS).where(JOBS.c.id == job_id)
    if tenant is not None:
        query = query.where(JOBS.c.tenant == tenant)
    with database.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else _job(row)


def jobs(database: Database, tenant: str, namespace: str | None, limit: int) -> list[Job]:
    """See `State.jobs`."""
    query = select(JOBS).where(JOBS.c.tenant == tenant)
    if namespace is not None:
        query = query.where(JOBS.c.namespace == namespace)
    query = query.order_by(JOBS.c.created_at_us.desc(), JOBS.c.id).limit(limit)
    with database.read() as connection:
        return [_job(row) for row in connection.execute(query)]


def add_alert(
    database: Database,
    *,
    tenant: str,
    namespace: str,
    kind: str,
    message: str,
    now_us: int,
    window_us: int,
) -> bool:
    """See `State.add_alert`."""
    same = (
        select(ALERTS)
        .where(ALERTS.c.tenant == tenant, ALERTS.c.namespace == namespace, ALERTS.c.kind == kind)
        .where(ALERTS.c.first_at_us > now_us - window_us)
        .order_by(ALERTS.c.first_at_us.desc())
        .limit(1)
    )
    with database.write(f"alert/{tenant}/{namespace}/{kind}") as connection:
        row = connection.execute(same).first()
        if row is not None:
            change = {"times": row.times + 1, "last_at_us": now_us, "message": message}
            connection.execute(update(ALERTS).where(ALERTS.c.id == row.id).values(change))
            return False
        connection.execute(
            ALERTS.insert().values(
                id=f"alert_{uuid.uuid4().hex}",
                tenant=tenant,
                namespace=namespace,
                kind=kind,
                message=message,
                first_at_us=now_us,
                last_at_us=now_us,
                times=1,
            )
        )
    return True


def alerts(
    database: Database, tenant: str | None, namespace: str | None, since_us: int, limit: int
) -> list[Alert]:
    """See `State.alerts`."""
    query = select(ALERTS).where(ALERTS.c.last_at_us >= since_us)
    if tenant is not None:
        query = query.where(ALERTS.c.tenant == tenant)
    if namespace is not None:
        query = query.where(ALERTS.c.namespace == namespace)
    query = query.order_by(ALERTS.c.last_at_us.desc(), ALERTS.c.id).limit(limit)
    with database.read() as connection:
        return [Alert(*row) for row in connection.execute(query)]


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


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        tenant=row.tenant,
        namespace=row.namespace,
        kind=row.kind,
        state=row.state,
        request=json.loads(row.request),
        result=json.loads(row.result),
        log=row.log,
        created_at_us=row.created_at_us,
        updated_at_us=row.updated_at_us,
    )


def _tombstone(row: Row[Any]) -> Tombstone:
    return Tombstone(row.tenant, row.namespace, row.pair_id, row.erased_at_us, row.rows)
