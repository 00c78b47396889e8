"""The money ledger: exact sums, limits that hold, reservations that expire."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.control.budget import Limits, Period
from apprentice_pipeline.errors import BudgetExhausted, PriceUnknown
from apprentice_pipeline.store.state import State

NOW_US = 1_760_000_000_000_000
DAY_US = 86_400_000_000
NO_LIMITS = Limits()


def reserve(state: State, usd: str, limits: Limits, **changes: object) -> str:
    arguments = {
        "tenant": "acme",
        "namespace": "tickets",
        "kind": "resample",
        "maximum_usd": Decimal(usd),
        "overall": limits,
        "now_us": NOW_US,
    } | changes
    return state.reserve(**arguments)  # type: ignore[arg-type]


def test_what_is_reserved_counts_until_it_is_settled(state: State) -> None:
    limits = Limits(daily=Decimal("1.00"))
    held = reserve(state, "0.70", limits)
    with pytest.raises(BudgetExhausted, match=r"0\.30"):
        reserve(state, "0.31", limits)
    settlement = state.settle(held, Decimal("0.1"))
    assert settlement is not None
    assert (settlement.charged, settlement.released) == (Decimal("0.1"), Decimal("0.60"))
    reserve(state, "0.90", limits)
    with pytest.raises(BudgetExhausted) as raised:
        reserve(state, "0.01", limits)
    assert "budget.daily" in raised.value.remedy
    held_now = state.spent(now_us=NOW_US)
    assert held_now.spent[Period.DAY] == Decimal("0.1")
    assert held_now.reserved[Period.MONTH] == Decimal("0.90")


def test_a_refused_reservation_holds_nothing(state: State) -> None:
    with pytest.raises(BudgetExhausted):
        reserve(state, "2", Limits(weekly=Decimal(1)))
    assert state.spent(now_us=NOW_US).reserved[Period.WEEK] == 0


def test_a_call_without_a_known_price_is_refused(state: State) -> None:
    with pytest.raises(PriceUnknown) as raised:
        reserve(state, "0", NO_LIMITS, maximum_usd=None)
    assert "remote.prices" in raised.value.remedy


def test_a_tasks_own_limit_binds_that_task_only(state: State) -> None:
    task = Limits(daily=Decimal("0.5"))
    reserve(state, "0.4", NO_LIMITS, task=task)
    with pytest.raises(BudgetExhausted):
        reserve(state, "0.2", NO_LIMITS, task=task)
    reserve(state, "0.4", NO_LIMITS, task=task, namespace="mail")
    with pytest.raises(BudgetExhausted):
        reserve(state, "0.1", Limits(daily=Decimal("0.8")), namespace="other")


def test_an_expired_reservation_is_charged_in_full_and_cannot_be_settled(state: State) -> None:
    held = reserve(state, "0.7", NO_LIMITS, hold_us=100)
    assert state.spent(now_us=NOW_US + 99).spent[Period.DAY] == 0
    after = state.spent(now_us=NOW_US + 100)
    assert (after.spent[Period.DAY], after.reserved[Period.DAY]) == (Decimal("0.7"), 0)
    assert state.settle(held, 0) is None
    assert state.spent(now_us=NOW_US + 101).spent[Period.DAY] == Decimal("0.7")


def test_an_unknown_actual_cost_is_charged_in_full(state: State) -> None:
    state.settle(reserve(state, "0.7", NO_LIMITS), None)
    assert state.spent(now_us=NOW_US).spent[Period.DAY] == Decimal("0.7")


def test_a_new_day_begins_in_the_configured_zone(state: State) -> None:
    limits, zone = Limits(daily=Decimal(1)), ZoneInfo("Asia/Tokyo")
    noon_utc = NOW_US - NOW_US % DAY_US + DAY_US // 2
    reserve(state, "1", limits, now_us=noon_utc, zone=zone, hold_us=30 * DAY_US)
    before_midnight, after_midnight = noon_utc + DAY_US // 24 * 2, noon_utc + DAY_US // 24 * 3
    with pytest.raises(BudgetExhausted):
        reserve(state, "1", limits, now_us=before_midnight, zone=zone)
    reserve(state, "1", limits, now_us=after_midnight, zone=zone)


def test_a_reservation_is_charged_to_the_period_it_was_made_in(state: State) -> None:
    held = reserve(state, "1", NO_LIMITS, hold_us=30 * DAY_US)
    state.settle(held, Decimal("0.5"))
    assert state.spent(now_us=NOW_US + DAY_US).spent[Period.DAY] == 0
    assert state.spent(now_us=NOW_US).spent[Period.DAY] == Decimal("0.5")


def test_the_customers_own_calls_are_metered_but_bind_only_when_asked(state: State) -> None:
    limits = Limits(daily=Decimal(1))
    state.meter("acme", "tickets", "passthrough", 5.5, NOW_US, calls=3)
    reserve(state, "0.5", limits)
    with pytest.raises(BudgetExhausted):
        reserve(state, "0.5", limits, count_passthrough=True)
    assert state.lifetime_spending("acme", "tickets") == {"passthrough": (Decimal("5.5"), 3)}
    assert state.spent("acme", now_us=NOW_US).spent[Period.DAY] == 0
    counted = state.spent("acme", "tickets", now_us=NOW_US, count_passthrough=True)
    assert counted.spent[Period.DAY] == Decimal("5.5")


def test_spending_is_told_by_kind_tenant_and_namespace(state: State) -> None:
    for tenant, namespace, kind, usd in [
        ("acme", "tickets", "run", 0.1),
        ("acme", "mail", "run", 0.2),
        ("acme", "tickets", "shadow", 0.3),
        ("umbrella", "tickets", "run", 0.4),
    ]:
        state.meter(tenant, namespace, kind, usd, NOW_US)
    assert state.lifetime_spending("acme") == {
        "run": (Decimal("0.3"), 2),
        "shadow": (Decimal("0.3"), 1),
    }
    assert state.lifetime_spending()["run"] == (Decimal("0.7"), 3)
    assert state.spent("umbrella", now_us=NOW_US).spent[Period.WEEK] == Decimal("0.4")
    assert state.spent(now_us=NOW_US, zone=UTC).spent[Period.MONTH] == Decimal("1.0")
    assert state.spent(None, "mail", now_us=NOW_US).spent[Period.DAY] == Decimal("0.2")
    assert state.spent(None, "tickets", now_us=NOW_US).spent[Period.DAY] == Decimal("0.8")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.decimals("0", "10", places=9), min_size=1, max_size=12))
def test_sums_are_exact(tmp_path_factory: pytest.TempPathFactory, amounts: list[Decimal]) -> None:
    state = State.open(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'state.db'}")
    for at, amount in enumerate(amounts):
        if at % 2:
            state.meter("acme", "tickets", "run", amount, NOW_US)
        else:
            state.settle(reserve(state, "10", NO_LIMITS), amount)
    assert state.spent(now_us=NOW_US).spent[Period.DAY] == sum(amounts)
    state.close()


SPEND = """
import sys
from decimal import Decimal
from apprentice_pipeline.control.budget import Limits
from apprentice_pipeline.errors import BudgetExhausted
from apprentice_pipeline.store.state import State

state, kept = State.open(sys.argv[1]), 0
for _ in range(20):
    try:
        state.reserve(tenant="acme", namespace="tickets", kind="run", maximum_usd=Decimal("0.1"),
            overall=Limits(daily=Decimal("2.5")), now_us=int(sys.argv[2]))
        kept += 1
    except BudgetExhausted:
        pass
print(kept)
"""


def test_processes_that_reserve_at_once_never_exceed_a_limit(
    state_url: str, child: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    children = [child(SPEND, state_url, NOW_US) for _ in range(3)]
    outputs = [each.communicate(timeout=120) for each in children]
    assert sum(int(output or -1) for output, _ in outputs) == 25, outputs
    state = State.open(state_url)
    assert state.spent(now_us=NOW_US).reserved[Period.DAY] == Decimal("2.5")
    state.close()
