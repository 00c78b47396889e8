"""Counting while the state database is down: bounded, told of, and never at an end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.gateway.metrics import Metrics
from apprentice_pipeline.gateway.tally import FLUSH_S, MOST_ALERTS, MOST_STREAMS, Tally


class State:
    """The port `Tally` writes to; `fails` is what every write raises."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.poison = ""
        self.counts: dict[str, float] = {}
        self.calls = 0
        self.alerts = 0

    def count_all(self, entries: dict[tuple[str, str, str], dict[str, float]]) -> None:
        for _, namespace, _day in entries:
            self._fail(namespace)
        for (_, namespace, _day), increments in entries.items():
            self.counts[namespace] = self.counts.get(namespace, 0) + sum(increments.values())

    def meter_all(self, spent: dict[Any, tuple[float, int]], *_: Any, **__: Any) -> None:
        self._fail("")
        self.calls += sum(calls for _, calls in spent.values())

    def add_alert(self, *_: Any, **__: Any) -> None:
        self._fail("")
        self.alerts += 1

    def _fail(self, namespace: str) -> None:
        if self.fails is not None:
            raise self.fails
        if self.poison and namespace == self.poison:
            raise OverflowError("int too large")


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def tally(state: Any, metrics: Metrics) -> Tally:
    return Tally(state, metrics, "UTC")


def test_what_a_database_that_is_down_leaves_is_bounded_and_the_rest_is_told(
    state: State, metrics: Metrics, tally: Tally
) -> None:
    state.fails = StoreError("down")
    for turn in range(3):
        for number in range(MOST_STREAMS - 10):
            stream = ("acme", f"n{turn}-{number}")
            tally.take_in({stream: {"pairs": 1, "priced": 1, "cost_usd": 0.1}})
            tally.alert(*stream, "kind", "message")
        tally.flush()
    kept = tally._sums
    assert (len(kept.events), len(kept.spending)) == (MOST_STREAMS, MOST_STREAMS)
    assert len(kept.alerts) == MOST_ALERTS
    state.fails = None
    tally.flush()
    assert len(state.counts) == state.calls == MOST_STREAMS
    assert state.alerts == MOST_ALERTS
    assert tally.dropped > 0
    told = f'apprentice_events_total{{event="counts_dropped"}} {float(tally.dropped)}'
    assert told in metrics.exposition(tenants=True).decode()


def test_an_entry_that_fails_for_a_reason_of_its_own_holds_up_no_other(
    state: State, metrics: Metrics, tally: Tally
) -> None:
    state.poison = "bad"
    for namespace in ("bad", "good"):
        tally.add("acme", namespace, pairs=1)
    tally.flush()
    tally.flush()
    assert state.counts == {"good": 1}
    assert b'{event="counts_dropped"} 1.0' in metrics.exposition(tenants=True)


async def test_counting_goes_on_after_a_failure_that_nobody_foresaw(
    state: State, tally: Tally
) -> None:
    state.fails = RuntimeError("unforeseen")
    flushing = asyncio.create_task(tally.run())
    tally.add("acme", "first", pairs=1)
    await asyncio.sleep(FLUSH_S * 1.5)
    state.fails = None
    tally.add("acme", "second", pairs=1)
    await asyncio.sleep(FLUSH_S * 1.5)
    assert not flushing.done()
    flushing.cancel()
    assert state.counts == {"second": 1}
