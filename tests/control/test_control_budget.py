"""The ledger's arithmetic: what fits, what binds, what is charged when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.control import budget
from apprentice_pipeline.control.budget import Limits, Period, Refusal, Reservation
from apprentice_pipeline.errors import BudgetExhausted, PriceUnknown

amounts = st.decimals("0", "100", places=6)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


NOW = at("2026-11-21T12:00:00+00:00")
LIMITS = Limits(Decimal(10), Decimal(50), Decimal(150))


@pytest.mark.parametrize(
    ("when", "keys"),
    [
        ("2026-11-21T12:00:00+00:00", ("2026-11-21", "2026-W47", "2026-11")),
        ("2026-12-31T22:59:59+00:00", ("2026-12-31", "2026-W53", "2026-12")),
        ("2026-12-31T23:00:00+00:00", ("2027-01-01", "2026-W53", "2027-01")),
    ],
)
def test_periods_follow_the_local_calendar(when: str, keys: tuple[str, str, str]) -> None:
    assert tuple(budget.period_keys(at(when), BERLIN).values()) == keys


@pytest.mark.parametrize(
    ("period", "when", "resets"),
    [
        (Period.DAY, "2026-03-29T00:30:00+00:00", "2026-03-30T00:00:00+02:00"),
        (Period.WEEK, "2026-10-25T12:00:00+00:00", "2026-10-26T00:00:00+01:00"),
        (Period.MONTH, "2026-12-15T12:00:00+00:00", "2027-01-01T00:00:00+01:00"),
        (Period.MONTH, "2026-01-31T12:00:00+00:00", "2026-02-01T00:00:00+01:00"),
    ],
)
def test_a_period_ends_at_local_midnight_daylight_saving_included(
    period: Period, when: str, resets: str
) -> None:
    assert budget.resets_at_us(period, at(when), BERLIN) == at(resets)


@given(st.integers(0, 4_000_000_000), st.integers(-12, 14), st.sampled_from(list(Period)))
def test_the_key_changes_exactly_at_the_reset(second: int, offset: int, period: Period) -> None:
    zone, now = timezone(timedelta(hours=offset)), second * 1_000_000
    end = budget.resets_at_us(period, now, zone)
    key = budget.period_key(period, now, zone)
    assert now < end
    assert budget.period_key(period, end - 1, zone) == key
    assert budget.period_key(period, end, zone) != key


def test_a_call_within_every_limit_is_reserved_at_its_maximum() -> None:
    held = budget.authorize(LIMITS, {}, {}, Decimal("0.25"), NOW, UTC)
    assert isinstance(held, Reservation)
    assert held.amount == Decimal("0.25")
    assert held.keys[Period.DAY] == "2026-11-21"
    assert held.expires_at_us == NOW + budget.RESERVATION_US


@pytest.mark.parametrize(
    ("spent", "reserved", "binding", "word"),
    [
        ({Period.DAY: Decimal("9.9")}, {}, Period.DAY, "daily"),
        ({Period.DAY: Decimal(5)}, {Period.DAY: Decimal("4.9")}, Period.DAY, "daily"),
        ({Period.WEEK: Decimal(50), Period.DAY: Decimal("9.9")}, {}, Period.WEEK, "weekly"),
        ({Period.MONTH: Decimal(149)}, {Period.MONTH: Decimal(1)}, Period.MONTH, "monthly"),
    ],
)
def test_the_limit_that_binds_is_named_with_the_remedy(
    spent: dict[Period, Decimal], reserved: dict[Period, Decimal], binding: Period, word: str
) -> None:
    refusal = budget.authorize(LIMITS, spent, reserved, Decimal("0.25"), NOW, UTC)
    assert isinstance(refusal, Refusal)
    assert refusal.period is binding
    assert f"{word} budget" in refusal.message
    assert f"budget.{word}" in refusal.remedy
    assert refusal.resets_at_us == budget.resets_at_us(binding, NOW, UTC)
    with pytest.raises(BudgetExhausted, match=word):
        budget.require(refusal)


def test_an_unknown_price_is_refused_even_without_limits() -> None:
    refusal = budget.authorize(Limits(), {}, {}, None, NOW, UTC)
    assert isinstance(refusal, Refusal)
    with pytest.raises(PriceUnknown) as caught:
        budget.require(refusal)
    assert "remote.prices" in caught.value.remedy


def test_without_limits_everything_with_a_price_is_allowed() -> None:
    held = budget.authorize(Limits(), {Period.DAY: Decimal(10**9)}, {}, Decimal(1), NOW, UTC)
    assert budget.require(held) is held


@given(st.lists(st.tuples(amounts, st.decimals("0", "1", places=3)), max_size=30))
def test_settled_spending_never_passes_the_limit_when_maxima_are_true(
    calls: list[tuple[Decimal, Decimal]],
) -> None:
    """Whatever is asked and whatever share of the maximum it turns out to cost."""
    spent = dict.fromkeys(Period, Decimal(0))
    for maximum, share in calls:
        held = budget.authorize(LIMITS, spent, {}, maximum, NOW, UTC)
        if isinstance(held, Refusal):
            continue
        settled = budget.settle(held, maximum * share)
        assert settled.charged + settled.released == maximum
        spent = {period: total + settled.charged for period, total in spent.items()}
    assert all(spent[period] <= (LIMITS.of(period) or 0) for period in Period)


@given(st.lists(amounts, max_size=30))
def test_outstanding_reservations_never_pass_the_limit(maxima: list[Decimal]) -> None:
    reserved = dict.fromkeys(Period, Decimal(0))
    for maximum in maxima:
        held = budget.authorize(LIMITS, {}, reserved, maximum, NOW, UTC)
        if isinstance(held, Reservation):
            reserved = {period: total + held.amount for period, total in reserved.items()}
    assert reserved[Period.DAY] <= Decimal(10)


def test_a_call_across_midnight_is_charged_where_it_was_reserved() -> None:
    held = budget.require(budget.authorize(LIMITS, {}, {}, Decimal(1), NOW, UTC))
    assert budget.settle(held, Decimal("0.4")).keys[Period.DAY] == "2026-11-21"


def test_a_cost_beyond_the_maximum_is_charged_and_shown() -> None:
    held = budget.require(budget.authorize(LIMITS, {}, {}, Decimal(1), NOW, UTC))
    settled = budget.settle(held, Decimal("1.5"))
    assert (settled.charged, settled.released, settled.overrun) == (
        Decimal("1.5"),
        Decimal(0),
        Decimal("0.5"),
    )


def test_an_unknown_actual_cost_and_an_expired_reservation_are_charged_in_full() -> None:
    held = budget.require(budget.authorize(LIMITS, {}, {}, Decimal(1), NOW, UTC, hold_us=10))
    assert budget.settle(held, None).charged == Decimal(1)
    assert budget.expire([held], NOW + 9) == ()
    (settled,) = budget.expire([held], NOW + 10)
    assert settled.charged == Decimal(1)
    assert settled.expired


def test_an_impossible_cost_is_refused() -> None:
    for cost in (Decimal(-1), Decimal("NaN")):
        with pytest.raises(ValueError, match="cannot be"):
            budget.authorize(LIMITS, {}, {}, cost, NOW, UTC)
