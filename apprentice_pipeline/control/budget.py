"""What may still be spent: the arithmetic of authorize, reserve, call, settle.

Belongs here: limits, periods, decisions, in Decimal. Does not: storage or transactions (the
store applies these decisions inside one), prices, the clock.

A reservation holds the *maximum* a call can cost and counts against every period it was made in
(calendar day, ISO week, calendar month, in the configured zone). Settling replaces it by the
actual cost, in those same periods; one that expires unsettled is charged in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import Final

from apprentice_pipeline.errors import BudgetExhausted, PriceUnknown

ZERO: Final = Decimal(0)
RESERVATION_US: Final = 600_000_000
"""How long a reservation holds before it is charged in full: ten minutes."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Period(StrEnum):
    """A span of the calendar that a limit covers."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Limits:
    """Most that may be spent per period; None is unlimited."""

    daily: Decimal | None = None
    weekly: Decimal | None = None
    monthly: Decimal | None = None
    currency: str = "USD"

    def of(self, period: Period) -> Decimal | None:
        """The limit of one period."""
        return {Period.DAY: self.daily, Period.WEEK: self.weekly, Period.MONTH: self.monthly}[
            period
        ]


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount held for one call; `keys` are the periods it counts in (see `period_key`)."""

    amount: Decimal
    keys: Mapping[Period, str]
    reserved_at_us: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call may not start; `period` and `limit` are None when its price is unknown."""

    period: Period | None
    limit: Decimal | None
    available: Decimal | None
    resets_at_us: int | None
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a reservation became: `charged`, `released` back, and `overrun` beyond the maximum."""

    keys: Mapping[Period, str]
    charged: Decimal
    released: Decimal
    overrun: Decimal
    expired: bool = False


def period_key(period: Period, at_us: int, zone: tzinfo) -> str:
    """`2026-11-21`, `2026-W47` (ISO) or `2026-11`, of that instant on that zone's calendar."""
    day = _local_date(at_us, zone)
    if period is Period.DAY:
        return day.isoformat()
    if period is Period.MONTH:
        return f"{day:%Y-%m}"
    iso = day.isocalendar()
    return f"{iso.year:04d}-W{iso.week:02d}"


def period_keys(at_us: int, zone: tzinfo) -> dict[Period, str]:
    """The key of every period at that instant."""
    return {period: period_key(period, at_us, zone) for period in Period}


def resets_at_us(period: Period, at_us: int, zone: tzinfo) -> int:
    """When the period of that instant ends: the next local midnight that begins a new one."""
    day = _local_date(at_us, zone)
    if period is Period.DAY:
        following = day + timedelta(days=1)
    elif period is Period.WEEK:
        following = day + timedelta(days=7 - day.weekday())
    else:
        following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    midnight = datetime.combine(following, time(), tzinfo=zone)
    return (midnight.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def authorize(
    limits: Limits,
    spent: Mapping[Period, Decimal],
    reserved: Mapping[Period, Decimal],
    maximum_cost: Decimal | None,
    now_us: int,
    zone: tzinfo,
    *,
    hold_us: int = RESERVATION_US,
) -> Reservation | Refusal:
    """Hold `maximum_cost` if it fits within every limit, else say which binds and what to do.

    `spent` and `reserved` are the sums of the periods of `now_us` (a missing one is zero). An
    unknown cost (None) is refused, limits or not: it could not be bounded. Of several limits
    that bind, the one with the least left is named.

    Raises:
        ValueError: the maximum cost is negative or not a number.
    """
    if maximum_cost is None:
        return Refusal(None, None, None, None, "the call has no known price", _PRICE_REMEDY)
    if maximum_cost.is_nan() or maximum_cost < ZERO:
        raise ValueError(f"a maximum cost cannot be {maximum_cost}")
    left = {period: available(limits, spent, reserved, period) for period in Period}
    short = [(room, p) for p, room in left.items() if room is not None and room < maximum_cost]
    if not short:
        return Reservation(maximum_cost, period_keys(now_us, zone), now_us, now_us + hold_us)
    room, period = min(short, key=lambda each: each[0])
    return _refusal(limits, period, room, maximum_cost, now_us, zone)


def available(
    limits: Limits,
    spent: Mapping[Period, Decimal],
    reserved: Mapping[Period, Decimal],
    period: Period,
) -> Decimal | None:
    """What is left in one period, never below zero; None when it has no limit."""
    limit = limits.of(period)
    if limit is None:
        return None
    return max(ZERO, limit - spent.get(period, ZERO) - reserved.get(period, ZERO))


def settle(reservation: Reservation, actual_cost: Decimal | None) -> Settlement:
    """Charge the actual cost in the reservation's own periods; an unknown one (None) in full."""
    charged = reservation.amount if actual_cost is None else actual_cost
    if charged.is_nan() or charged < ZERO:
        raise ValueError(f"an actual cost cannot be {charged}")
    return Settlement(
        keys=reservation.keys,
        charged=charged,
        released=max(ZERO, reservation.amount - charged),
        overrun=max(ZERO, charged - reservation.amount),
    )


def expire(reservations: Iterable[Reservation], now_us: int) -> tuple[Settlement, ...]:
    """Settlements of those past their time: each charged in full, for the call may have run."""
    return tuple(
        Settlement(each.keys, each.amount, ZERO, ZERO, expired=True)
        for each in reservations
        if now_us >= each.expires_at_us
    )


def require(decision: Reservation | Refusal) -> Reservation:
    """The reservation, or the refusal as an exception.

    Raises:
        PriceUnknown: the call's price is unknown.
        BudgetExhausted: a limit binds.
    """
    if isinstance(decision, Reservation):
        return decision
    error = PriceUnknown if decision.limit is None else BudgetExhausted
    raise error(decision.message, remedy=decision.remedy)


_PRICE_REMEDY: Final = "set the model's price under remote.prices in apprentice.yaml"


def _refusal(
    limits: Limits, period: Period, room: Decimal, wanted: Decimal, now_us: int, zone: tzinfo
) -> Refusal:
    limit, unit = limits.of(period), limits.currency
    resets = resets_at_us(period, now_us, zone)
    name = {Period.DAY: "daily", Period.WEEK: "weekly", Period.MONTH: "monthly"}[period]
    when = (_EPOCH + timedelta(microseconds=resets)).astimezone(zone)
    return Refusal(
        period=period,
        limit=limit,
        available=room,
        resets_at_us=resets,
        message=f"the {name} budget of {limit} {unit} has {room} left, the call may cost {wanted}",
        remedy=f"raise budget.{name} in apprentice.yaml, or wait until {when:%Y-%m-%d %H:%M %Z}",
    )


def _local_date(at_us: int, zone: tzinfo) -> date:
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone).date()
