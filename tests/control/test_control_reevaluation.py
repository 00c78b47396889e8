"""Re-evaluation: which level a champion must keep, and when an alarm is right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apprentice_pipeline.control import agreement, drift, phases
from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.control.reevaluation import LEAST_ROWS, judge_alarm, level_to_keep
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.state import DRIFT, Champion, ControlState, Policy

CHANCE = 0.1
CHAMPION = Champion(1, CHANCE, Certificate(0.5, 200, 0.8, 0.03, 0.05, 0.03, 1))
POLICY = Policy()
SHADOW = phases.promote(ControlState.initial(), CHAMPION, POLICY, 1)[0]
SUSPENDED = replace(SHADOW, phase=Phase.SUSPENDED, since_us=70)
DRIFTING = replace(
    SHADOW,
    phase=Phase.SERVE,
    coaching=DRIFT,
    coaching_since_us=80,
    detector=drift.start(0.95, POLICY.arl),
)


def rows(agreeing: int, n: int, confidence: float = 0.9) -> list[tuple[float, float]]:
    return [(confidence, float(i < agreeing)) for i in range(n)]


def test_an_alarm_has_its_own_time() -> None:
    assert SHADOW.alarm_at_us is None
    assert SUSPENDED.alarm_at_us == 70
    assert DRIFTING.alarm_at_us == 80
    assert ControlState.from_json(DRIFTING.to_json()) == DRIFTING


def test_each_alarm_has_the_level_it_is_about() -> None:
    assert level_to_keep(SUSPENDED, POLICY) == POLICY.emergency_threshold
    assert level_to_keep(DRIFTING, POLICY) == pytest.approx(agreement.correlation(0.95, CHANCE))
    low = replace(DRIFTING, coaching="low agreement")
    assert level_to_keep(low, POLICY) == POLICY.coaching_trigger


@pytest.mark.parametrize(("agreeing", "confirmed"), [(10, True), (39, False)])
def test_a_suspension_is_confirmed_below_the_emergency_threshold(
    agreeing: int, confirmed: bool
) -> None:
    outcome = judge_alarm(SUSPENDED, rows(agreeing, 40), POLICY)
    assert outcome is not None
    assert (outcome.rows, outcome.confirmed) == (40, confirmed)


def test_a_drift_is_confirmed_below_the_level_at_graduation() -> None:
    worse, as_before = (judge_alarm(DRIFTING, rows(n, 100), POLICY) for n in (85, 97))
    assert worse is not None
    assert as_before is not None
    assert (worse.confirmed, as_before.confirmed) == (True, False)


def test_rows_below_the_threshold_in_force_do_not_count_and_few_decide_nothing() -> None:
    unsure = rows(0, 500, confidence=0.2)
    assert judge_alarm(SUSPENDED, unsure + rows(29, LEAST_ROWS - 1), POLICY) is None
    outcome = judge_alarm(SUSPENDED, unsure + rows(30, LEAST_ROWS), POLICY)
    assert outcome is not None
    assert (outcome.rows, outcome.kappa, outcome.confirmed) == (LEAST_ROWS, 1.0, False)


def test_coaching_that_was_not_confirmed_does_not_begin_anew_from_the_old_window() -> None:
    coached = replace(DRIFTING, window=(0.0,) * POLICY.window_size)
    calm, _ = phases.reevaluate(coached, False, 90)
    assert (calm.coaching, calm.window, calm.alarm_at_us) == ("", (), None)
