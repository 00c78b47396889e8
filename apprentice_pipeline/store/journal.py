"""What happened and is under way: counters, jobs, alerts.

Belongs here: facts that reports and status pages read, in transactions. Does not: deciding
when to alert or what a job does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import ALERTS, COUNTERS, JOBS

ALERT_WINDOW_US: Final = 3_600_000_000
"""Alerts of one kind within an hour are one alert, counted."""
ACTIVE: Final = ("queued", "running")
"""States of a job that is not at its end."""
MAX_LOG: Final = 200_000
"""Characters of a job's log that are kept, the newest."""
Place = tuple[str, str, str]
"""What a counter is of: tenant, namespace, day (`YYYY-MM-DD`)."""


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
