"""The money ledger: reservations and what was spent, in exact decimals, a transaction each.

Belongs here: sums by calendar period, applied decisions. Does not: the decisions themselves
(`control.budget`), prices.
Promise: what is reserved and spent never exceeds a limit, whatever number of processes reserve
at once; an expired reservation is charged in full.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, bindparam, delete, or_, select

from apprentice_pipeline.control.budget import (
    RESERVATION_US,
    ZERO,
    Limits,
    Period,
    Refusal,
    Reservation,
    Settlement,
    authorize,
    period_keys,
    require,
)
from apprentice_pipeline.control.budget import settle as settle_reservation
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import RESERVATIONS, SPENDING

PASSTHROUGH: Final = "passthrough"
LIFETIME: Final = "lifetime"
_LOCK: Final = "ledger"

_OWNER: Final = and_(
    *(SPENDING.c[name] == bindparam(name) for name in ("tenant", "namespace", "kind"))
)
_CHARGED: Final = select(SPENDING.c.period, SPENDING.c.usd, SPENDING.c.calls).where(
    _OWNER,
    or_(
        *(and_(SPENDING.c.period == p.value, SPENDING.c.key == bindparam(p.value)) for p in Period),
        SPENDING.c.period == LIFETIME,
    ),
)
"""An owner's sums of the periods whose keys are given, and of its lifetime."""

Zone = Any
"""A `datetime.tzinfo`: the zone whose calendar the limits follow."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What the periods of one moment hold: spent, and reserved on top of it (US dollars)."""

    spent: Mapping[Period, Decimal]
    reserved: Mapping[Period, Decimal]


def reserve(
    database: Database,
    *,
    tenant: str,
    namespace: str,
    kind: str,
    maximum_usd: Decimal | None,
    overall: Limits,
    task: Limits | None,
    zone: Zone,
    now_us: int,
    hold_us: int = RESERVATION_US,
    count_passthrough: bool = False,
) -> str:
    """See `State.reserve`."""
    with database.write(_LOCK) as connection:
        _charge_expired(connection, database, now_us)
        keys = period_keys(now_us, zone)
        decision: Reservation | Refusal | None = None
        for limits, owner in ((overall, None), (task, (tenant, namespace))):
            if limits is not None and not isinstance(decision, Refusal):
                held = _spending(connection, keys, owner, count_passthrough)
                decision = authorize(
                    limits, held.spent, held.reserved, maximum_usd, now_us, zone, hold_us=hold_us
                )
        assert decision is not None  # `overall` always decides
        reservation = require(decision)
        reservation_id = str(uuid.uuid4())
        connection.execute(
            RESERVATIONS.insert().values(
                id=reservation_id,
                tenant=tenant,
                namespace=namespace,
                kind=kind,
                amount=str(reservation.amount),
                day=keys[Period.DAY],
                week=keys[Period.WEEK],
                month=keys[Period.MONTH],
                reserved_at_us=now_us,
                expires_at_us=reservation.expires_at_us,
            )
        )
    return reservation_id


def settle(
    database: Database, reservation_id: str, actual_usd: Decimal | float | None
) -> Settlement | None:
    """See `State.settle`."""
    with database.write(_LOCK) as connection:
        query = select(RESERVATIONS).where(RESERVATIONS.c.id == reservation_id)
        row = connection.execute(query).first()
        if row is None:
            return None
        settlement = settle_reservation(
            _reservation(row), None if actual_usd is None else _decimal(actual_usd)
        )
        connection.execute(delete(RESERVATIONS).where(RESERVATIONS.c.id == reservation_id))
        owner = (row.tenant, row.namespace, row.kind)
        _charge(connection, database, owner, settlement.charged, settlement.keys, 1)
    return settlement


def meter(
    database: Database,
    spent: Mapping[tuple[str, str], tuple[Decimal | float, int]],
    *,
    kind: str,
    at_us: int,
    zone: Zone,
) -> None:
    """See `State.meter_all`."""
    keys = period_keys(at_us, zone)
    with database.write(_LOCK) as connection:
        for (tenant, namespace), (usd, calls) in sorted(spent.items()):
            _charge(connection, database, (tenant, namespace, kind), _decimal(usd), keys, calls)


def spending(
    database: Database,
    *,
    tenant: str | None,
    namespace: str | None,
    zone: Zone,
    now_us: int,
    count_passthrough: bool = False,
) -> Spending:
    """See `State.spent`."""
    with database.write(_LOCK) as connection:
        _charge_expired(connection, database, now_us)
        keys = period_keys(now_us, zone)
        return _spending(connection, keys, (tenant, namespace), count_passthrough)


def lifetime(
    database: Database, tenant: str | None, namespace: str | None
) -> dict[str, tuple[Decimal, int]]:
    """See `State.lifetime_spending`."""
    query = select(SPENDING).where(SPENDING.c.period == LIFETIME)
    sums: dict[str, tuple[Decimal, int]] = {}
    with database.read() as connection:
        for row in connection.execute(_owned(query, SPENDING, (tenant, namespace))):
            usd, calls = sums.get(row.kind, (ZERO, 0))
            sums[row.kind] = (usd + Decimal(row.usd), calls + row.calls)
    return sums


def _spending(
    connection: Connection,
    keys: Mapping[Period, str],
    owner: tuple[str | None, str | None] | None,
    count_passthrough: bool,
) -> Spending:
    spent = dict.fromkeys(Period, ZERO)
    reserved = dict.fromkeys(Period, ZERO)
    periods = or_(*(_period_is(period, key) for period, key in keys.items()))
    query = _owned(select(SPENDING).where(periods), SPENDING, owner)
    for row in connection.execute(query):
        if count_passthrough or row.kind != PASSTHROUGH:
            spent[Period(row.period)] += Decimal(row.usd)
    for row in connection.execute(_owned(select(RESERVATIONS), RESERVATIONS, owner)):
        for period, key in keys.items():
            if getattr(row, period.value) == key:
                reserved[period] += Decimal(row.amount)
    return Spending(spent, reserved)


def _period_is(period: Period, key: str) -> Any:
    return and_(SPENDING.c.period == period.value, SPENDING.c.key == key)


def _owned(query: Any, table: Any, owner: tuple[str | None, str | None] | None) -> Any:
    tenant, namespace = owner or (None, None)
    if tenant is not None:
        query = query.where(table.c.tenant == tenant)
    return query if namespace is None else query.where(table.c.namespace == namespace)


def _charge_expired(connection: Connection, database: Database, now_us: int) -> None:
    expired = RESERVATIONS.c.expires_at_us <= now_us
    rows: Iterable[Row[Any]] = connection.execute(select(RESERVATIONS).where(expired)).all()
    for row in rows:
        held = _reservation(row)
        owner = (row.tenant, row.namespace, row.kind)
        _charge(connection, database, owner, held.amount, held.keys, 1)
        connection.execute(delete(RESERVATIONS).where(RESERVATIONS.c.id == row.id))


def _charge(
    connection: Connection,
    database: Database,
    owner: tuple[str, str, str],
    usd: Decimal,
    keys: Mapping[Period, str],
    calls: int,
) -> None:
    """Adds to the owner's sum of each period, and of its lifetime. The ledger lock is held."""
    tenant, namespace, kind = owner
    named = {"tenant": tenant, "namespace": namespace, "kind": kind}
    periods = {each.value: key for each, key in keys.items()}
    known = {row.period: row for row in connection.execute(_CHARGED, named | periods)}
    rows = []
    for period, key in (periods | {LIFETIME: ""}).items():
        row = known.get(period)
        total = usd + (Decimal(row.usd) if row else ZERO)
        times = calls + (row.calls if row else 0)
        rows.append(named | {"period": period, "key": key, "usd": str(total), "calls": times})
    statement = database.upsert(SPENDING)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant", "namespace", "kind", "period", "key"],
            set_={"usd": statement.excluded.usd, "calls": statement.excluded.calls},
        ),
        rows,
    )


def _reservation(row: Row[Any]) -> Reservation:
    keys = {Period.DAY: row.day, Period.WEEK: row.week, Period.MONTH: row.month}
    return Reservation(Decimal(row.amount), keys, row.reserved_at_us, row.expires_at_us)


def _decimal(usd: Decimal | float) -> Decimal:
    """Exactly the number that is printed: a float's shortest text, not its binary expansion."""
    return usd if isinstance(usd, Decimal) else Decimal(repr(usd))
