"""Turns of recurring work: one holder at a time, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.store.rounds import Round, _is_free
from apprentice_pipeline.store.state import State

NAME = "maintenance"
EVERY_US, LEASE_US = 3_600_000_000, 120_000_000
NOW_US = 1_760_000_000_000_000


def claim(state: State, now_us: int) -> Round | None:
    return state.rounds.claim(NAME, every_us=EVERY_US, lease_us=LEASE_US, now_us=now_us)


def due(state: State) -> int:
    """A time at which the round is due, after it was looked at for the first time."""
    assert claim(state, NOW_US) is None
    assert claim(state, NOW_US + EVERY_US - 1) is None
    return NOW_US + EVERY_US


def test_a_round_has_one_holder_and_comes_again_after_its_interval(state: State) -> None:
    at_us = due(state)
    mine = claim(state, at_us)
    assert mine is not None
    assert claim(state, at_us + 1) is None
    state.rounds.end(NAME, mine, now_us=at_us + 5, every_us=EVERY_US)
    assert claim(state, at_us + 5 + EVERY_US - 1) is None
    again = claim(state, at_us + 5 + EVERY_US)
    assert again is not None
    assert (again.done_us, again.failures) == (at_us + 5, 0)


def test_who_does_not_wait_for_the_interval_waits_for_the_holder_all_the_same(state: State) -> None:
    def at_once(now_us: int) -> Round | None:
        return state.rounds.claim(NAME, every_us=0, lease_us=LEASE_US, now_us=now_us)

    mine = at_once(NOW_US)
    assert mine is not None
    assert at_once(NOW_US + 1) is None
    assert claim(state, NOW_US + 1) is None
    state.rounds.end(NAME, mine, now_us=NOW_US + 5, every_us=EVERY_US)
    assert claim(state, NOW_US + 6) is None
    assert at_once(NOW_US + 6) is not None


def test_of_many_that_claim_at_once_one_gets_the_turn(state: State) -> None:
    at_us, got = due(state), list[Round]()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        mine = claim(state, at_us)
        if mine is not None:
            got.append(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_dead_holder_loses_its_turn_and_a_living_one_keeps_it(state: State) -> None:
    at_us = due(state)
    first = claim(state, at_us)
    assert first is not None
    state.rounds.renew(NAME, first, until_us=at_us + 60_000_000 + LEASE_US)
    assert claim(state, at_us + LEASE_US + 1) is None
    second = claim(state, at_us + 60_000_000 + LEASE_US)
    assert second is not None
    state.rounds.end(NAME, first, now_us=at_us, every_us=EVERY_US)  # too late: it is not its turn
    found = state.rounds.find(NAME)
    assert found is not None
    assert (found.holder, found.done_us) == (second.holder, 0)


def test_a_failed_round_is_counted_and_comes_again_sooner(state: State) -> None:
    at_us = due(state)
    mine = claim(state, at_us)
    assert mine is not None
    state.rounds.fail(NAME, mine, due_us=at_us + 300)
    assert claim(state, at_us + 299) is None
    again = claim(state, at_us + 300)
    assert again is not None
    assert (again.failures, again.done_us) == (1, 0)
    state.rounds.give_back(NAME, again)
    assert claim(state, at_us + 301) is not None


times = st.integers(0, 10 * EVERY_US)


@given(times, times, times)
def test_however_the_clock_is_set_a_round_is_free_within_its_interval_and_lease(
    due_us: int, until_us: int, now_us: int
) -> None:
    known = Round("somebody", until_us, due_us)
    later: Callable[[int], bool] = lambda us: _is_free(known, EVERY_US, LEASE_US, now_us + us)  # noqa: E731
    assert later(0) or later(LEASE_US) or later(EVERY_US) or later(EVERY_US + LEASE_US)
