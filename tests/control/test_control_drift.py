"""The e-detector's false alarms and delays, and the label-free monitor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.control import drift


def first_alarm(errors: np.ndarray, m0: float, arl: float, window: int = 100) -> drift.Alarm | None:
    detector = drift.start(m0, arl)
    for error in errors:
        detector, alarm = drift.observe(detector, 1.0 - float(error), window)
        if alarm:
            return alarm
    return None


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_false_alarms_are_as_rare_as_promised(error: float) -> None:
    """An alarm within T stable scores has probability at most T / arl (Doob)."""
    streams, length, arl = 200, 100, 1000.0
    rng = np.random.default_rng(2)
    alarms = sum(
        first_alarm(rng.random(length) < error, 1 - error, arl) is not None for _ in range(streams)
    )
    allowed = length / arl
    assert alarms / streams <= allowed + 2 * math.sqrt(allowed * (1 - allowed) / streams)


def test_the_mean_run_length_to_a_false_alarm_is_at_least_arl() -> None:
    rng = np.random.default_rng(3)
    lengths = []
    for _ in range(60):
        alarm = first_alarm(rng.random(2000) < 0.05, 0.95, 200.0)
        lengths.append(alarm.n if alarm else 2000)
    assert np.mean(lengths) >= 200.0


@pytest.mark.parametrize(("before", "after", "lorden"), [(0.05, 0.15, 131), (0.02, 0.10, 109)])
def test_a_drop_is_found_within_lordens_bound_on_average(
    before: float, after: float, lorden: int
) -> None:
    """Delay after 200 stable scores at arl 10,000; the bound is ln(arl) / KL."""
    delays = []
    for stream in range(80):
        rng = np.random.default_rng(stream)
        errors = np.concatenate((rng.random(200) < before, rng.random(2000) < after))
        alarm = first_alarm(errors, 1 - before, 10_000.0)
        assert alarm is not None
        if alarm.n > 200:
            delays.append(alarm.n - 200)
    assert np.mean(delays) <= lorden


def test_an_alarm_tells_kind_change_point_and_size() -> None:
    rng = np.random.default_rng(5)
    errors = np.concatenate((rng.random(400) < 0.05, rng.random(400) < 0.4))
    alarm = first_alarm(errors, 0.95, 10_000.0)
    assert alarm is not None
    assert alarm.kind == "shift"
    assert abs(alarm.change_point - 400) <= 15
    assert 0.2 <= alarm.size <= 0.6


def test_a_slow_decline_over_several_windows_is_called_drift() -> None:
    rng = np.random.default_rng(6)
    errors = rng.random(3000) < np.linspace(0.05, 0.2, 3000)
    alarm = first_alarm(errors, 0.95, 10_000.0, window=30)
    assert alarm is not None
    assert alarm.kind == "drift"


def test_an_improvement_never_alarms() -> None:
    assert first_alarm(np.zeros(5000), 0.9, 100.0) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0, 1))
def test_a_detector_survives_plain_values_and_goes_on_the_same(
    scores: list[float], m0: float
) -> None:
    straight = resumed = drift.start(m0, 1e4)
    for score in scores:
        straight, alarm = drift.observe(straight, score, 10)
        resumed, again = drift.observe(drift.Detector.from_plain(resumed.to_plain()), score, 10)
        assert alarm == again
    assert straight == resumed


def watch_all(confidences: np.ndarray, tau: float = 0.5) -> int | None:
    monitor = drift.Monitor(learn=200, arl=10_000.0)
    for index, confidence in enumerate(confidences):
        monitor = drift.Monitor.from_plain(monitor.to_plain())
        monitor, alarmed = drift.watch(monitor, float(confidence), bool(confidence < tau))
        if alarmed:
            return index
    return None


def test_the_monitor_notices_falling_confidence_without_labels() -> None:
    rng = np.random.default_rng(8)
    found = watch_all(np.concatenate((rng.beta(9, 1, 400), rng.beta(3, 2, 400))))
    assert found is not None
    assert 400 <= found <= 500


def test_the_monitor_keeps_quiet_on_stable_traffic() -> None:
    rng = np.random.default_rng(9)
    alarms = sum(watch_all(rng.beta(9, 1, 600)) is not None for _ in range(10))
    assert alarms <= 1
