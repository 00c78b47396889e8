"""Folds evidence into the state: scored comparisons, and confidences without a label.

Belongs here: windows, bounds, drift, pi and the phase moves that follow from them. Does not:
moves that somebody decided (`phases`), the mathematics of each signal.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from apprentice_pipeline.control import agreement, drift, risk
from apprentice_pipeline.control.events import (
    CoachingChanged,
    DriftDetected,
    Event,
    Phase,
    PhaseChanged,
    RecalibrationDue,
    SequenceRestarted,
    ShiftSuspected,
)
from apprentice_pipeline.control.sampling import Sampling, sampling_probability
from apprentice_pipeline.control.state import DRIFT, SEEN_MOST, Comparison, ControlState, Policy

Step = tuple[ControlState, tuple[Event, ...]]

_LOW_AGREEMENT = "low agreement"


def observe(state: ControlState, comparison: Comparison, policy: Policy) -> Step:
    """Fold one comparison, in the order of recording.

    Only sampled ones with a confidence of at least their tau enter the estimates.

    Raises:
        ValueError: the score is outside [0, 1].
    """
    digest = hashlib.blake2b(comparison.pair_id.encode(), digest_size=6).hexdigest()
    if not _is_ours(state, comparison) or digest in state.seen:
        return state, ()
    state = replace(
        state,
        seen=(*state.seen, digest)[-SEEN_MOST:],
        n_compared=state.n_compared + 1,
        n_sampled=state.n_sampled + comparison.sampled,
    )
    state, events = _count_rows(state, comparison.at_us)
    tau = comparison.tau
    if not comparison.sampled or tau is None or not comparison.confidence >= tau:
        return state, events
    for fold in (_estimate, _detect, _move, _coach, _resample):
        state, more = fold(state, comparison, policy)
        events += more
    return state, events


def watch(
    state: ControlState, confidence: float, escalated: bool, policy: Policy, at_us: int
) -> Step:
    """Fold one local answer without a label, sampled or not. May only raise pi, for one window."""
    if state.phase is not Phase.SERVE:
        return state, ()
    monitor = state.monitor or drift.Monitor(max(200, policy.window_size), policy.arl)
    monitor, alarmed = drift.watch(monitor, confidence, escalated)
    if not alarmed:
        return replace(state, monitor=monitor), ()
    raised = replace(state, monitor=None, wary=policy.window_size, sampling=Sampling())
    return raised, (ShiftSuspected(at_us),)


def _is_ours(state: ControlState, comparison: Comparison) -> bool:
    if state.champion is None:
        return False
    return comparison.champion_version in (None, state.champion.version)


def _count_rows(state: ControlState, at_us: int) -> Step:
    rows = state.base_rows + state.n_sampled
    if state.recalibration_due or not risk.recalibration_due(rows, state.calibrated_rows):
        return state, ()
    due = RecalibrationDue(at_us, rows, state.calibrations + 1)
    return replace(state, recalibration_due=True), (due,)


def _estimate(state: ControlState, comparison: Comparison, policy: Policy) -> Step:
    sequence = agreement.observe(state.sequence, comparison.score, delta=policy.confidence_delta)
    events: tuple[Event, ...] = ()
    if sequence.low_ticks > sequence.high_ticks:
        sequence = agreement.Sequence()
        events = (SequenceRestarted(comparison.at_us, "agreement is not constant"),)
    window = (*state.window, comparison.score)[-policy.window_size :]
    return replace(state, sequence=sequence, window=window, n=state.n + 1), events


def _detect(state: ControlState, comparison: Comparison, policy: Policy) -> Step:
    """One alarm an episode: the detector rests until the coaching it started has ended.

    Each alarm restarts the bounds; alarms in a row would keep them from ever proving an emergency.
    """
    if state.phase is not Phase.SERVE or state.detector is None or state.drifting:
        return state, ()
    detector, alarm = drift.observe(state.detector, comparison.score, policy.window_size)
    if alarm is None:
        return replace(state, detector=detector), ()
    at_us = comparison.at_us
    fresh = replace(
        state, detector=drift.start(detector.m0, policy.arl), sequence=agreement.Sequence()
    )
    found = DriftDetected(at_us, alarm.kind, alarm.change_point, alarm.n, alarm.size)
    coached, events = start_coaching(fresh, DRIFT, at_us)
    return coached, (found, *events)


def _move(state: ControlState, comparison: Comparison, policy: Policy) -> Step:
    low, high, at_us = state.kappa_low, state.kappa_high, comparison.at_us
    if low is None or high is None or state.phase in (Phase.COLLECT, Phase.SUSPENDED):
        return state, ()
    if high < max(0.0, policy.emergency_threshold):
        return enter(state, Phase.SUSPENDED, at_us, f"correlation is below {high:.3f}")
    graduates = state.phase is Phase.SHADOW and state.tau is not None
    if not graduates or low < policy.phase2_to_phase3:
        return state, ()
    served, events = enter(state, Phase.SERVE, at_us, f"correlation is above {low:.3f}")
    m0 = agreement.bounds(state.sequence)[0]
    return replace(served, detector=drift.start(m0, policy.arl)), events


def _coach(state: ControlState, comparison: Comparison, policy: Policy) -> Step:
    kappa, low = state.kappa_hat, state.kappa_low
    if kappa is None or low is None or len(state.window) < policy.window_size:
        return state, ()
    at_us = comparison.at_us
    if not state.coaching:
        if kappa < policy.coaching_trigger:
            return start_coaching(state, _LOW_AGREEMENT, at_us)
        return state, ()
    state = replace(state, coached=state.coached + 1)
    proven = not state.drifting or low >= policy.phase2_to_phase3
    if state.coached < policy.window_size or kappa < policy.coaching_trigger or not proven:
        return state, ()
    ended = coaching_ended(state, at_us, "agreement recovered")
    return replace(state, coaching="", coached=0), ended


def _resample(state: ControlState, comparison: Comparison, policy: Policy) -> Step:
    """Set pi: 1 outside SERVE, under coaching and while wary, else as agreement decays it.

    A kappa is trusted here only once its lower bound has passed the coaching trigger: the first
    few scores after a restart would otherwise lower pi by luck.
    """
    if state.phase is not Phase.SERVE or state.coaching or state.wary:
        return replace(state, sampling=Sampling(), wary=max(0, state.wary - 1)), ()
    low = state.kappa_low
    trusted = low is not None and low >= policy.coaching_trigger
    sampling = sampling_probability(
        state.kappa_hat if trusted else None,
        state.sampling,
        policy.sampling,
        state.forced_until_us,
        comparison.at_us,
    )
    return replace(state, sampling=sampling), ()


def enter(state: ControlState, phase: Phase, at_us: int, why: str) -> Step:
    """Move to a phase; what belongs to serving (detector, monitor, pi) begins anew."""
    moved = PhaseChanged(at_us, state.phase, phase, why)
    calm = replace(
        state,
        phase=phase,
        since_us=at_us,
        sampling=Sampling(),
        detector=None,
        monitor=None,
        wary=0,
    )
    return calm, (moved,)


def start_coaching(state: ControlState, why: str, at_us: int) -> Step:
    """Begin coaching, or take the newer cause; announced once."""
    begun = replace(state, coaching=why, coached=0, coaching_since_us=at_us)
    return begun, () if state.coaching else (CoachingChanged(at_us, True, why),)


def coaching_ended(state: ControlState, at_us: int, why: str) -> tuple[Event, ...]:
    """The announcement that coaching ends, if it was on."""
    return (CoachingChanged(at_us, False, why),) if state.coaching else ()
