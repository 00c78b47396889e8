"""The controller: from recorded comparisons to a phase, and from a phase to a plan per request.

Belongs here: the moves that somebody decides (promotion, calibration, re-evaluation), and the
one place to import the controller from: `observe` and `watch` live in `folding`, `plan` and
`judge` in `routing`, the records in `state` and `events`.

Promises: only `promote`, `withdraw`, `recertify`, `reevaluate`, `force_full`, `watch` and `observe`
change a state; nothing depends on how often anybody looked; the same comparisons in the same
order give the same state; a comparison delivered twice counts once.
"""

from __future__ import annotations

from dataclasses import replace

from apprentice_pipeline.control import agreement, drift, risk
from apprentice_pipeline.control.events import CertificateChanged, Event, Phase, PhaseChanged
from apprentice_pipeline.control.folding import Step, coaching_ended, enter, observe, watch
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.routing import Plan, Verdict, inclusion_probability, judge, plan
from apprentice_pipeline.control.sampling import Sampling
from apprentice_pipeline.control.state import Champion, Comparison, ControlState, Policy

__all__ = [
    "Champion",
    "Comparison",
    "ControlState",
    "Event",
    "Phase",
    "Plan",
    "Policy",
    "Step",
    "Verdict",
    "force_full",
    "inclusion_probability",
    "judge",
    "observe",
    "plan",
    "promote",
    "recertify",
    "reevaluate",
    "watch",
    "withdraw",
]


def promote(state: ControlState, champion: Champion, policy: Policy, at_us: int) -> Step:
    """A new champion: to SHADOW, every estimate begins anew. Counts as its first calibration."""
    certified = champion.certificate.rows if champion.certificate else 0
    rows = champion.calibration_rows or certified
    fresh = ControlState(
        phase=Phase.SHADOW,
        since_us=at_us,
        champion=champion,
        forced_until_us=state.forced_until_us,
        calibrations=1,
        base_rows=rows,
        calibrated_rows=rows or risk.least_rows(policy.max_disagreement, policy.risk_delta),
        seen=state.seen,
    )
    ended = coaching_ended(state, at_us, "new champion")
    moved = PhaseChanged(at_us, state.phase, Phase.SHADOW, f"version {champion.version} promoted")
    return fresh, (*ended, moved, CertificateChanged(at_us, champion.certificate))


def withdraw(state: ControlState, at_us: int) -> Step:
    """No champion any more (revoked, or rolled back to none): to COLLECT."""
    if state.phase is Phase.COLLECT:
        return state, ()
    fresh = ControlState(since_us=at_us, forced_until_us=state.forced_until_us, seen=state.seen)
    ended = coaching_ended(state, at_us, "champion withdrawn")
    return fresh, (
        *ended,
        PhaseChanged(at_us, state.phase, Phase.COLLECT, "champion withdrawn"),
    )


def recertify(state: ControlState, certificate: Certificate | None, rows: int, at_us: int) -> Step:
    """Take a calibration's outcome on `rows` rows into force.

    Without a certificate nothing is served: SERVE falls back to SHADOW. A different tau is a
    different population: the sequence and the detector begin anew, the latter against what
    the certificate itself proves where that is less than the baseline in force.
    """
    if state.champion is None:
        return state, ()
    before = state.tau
    after = replace(
        state,
        champion=replace(state.champion, certificate=certificate),
        calibrations=state.calibrations + 1,
        calibrated_rows=rows,
        recalibration_due=False,
    )
    events: tuple[Event, ...] = (CertificateChanged(at_us, certificate),)
    if after.tau == before:
        return after, events
    after = replace(after, window=(), sequence=agreement.Sequence(), sampling=Sampling(), n=0)
    if certificate is None and state.phase is Phase.SERVE:
        after, moved = enter(after, Phase.SHADOW, at_us, "no threshold qualifies")
        return after, events + moved
    if certificate is not None and state.detector is not None:
        m0 = min(state.detector.m0, 1.0 - certificate.upper_bound)
        after = replace(after, detector=drift.start(m0, state.detector.arl), monitor=None)
    return after, events


def reevaluate(state: ControlState, confirmed: bool, at_us: int) -> Step:
    """Take a re-evaluation's outcome; when it confirms the trouble, wait for a new champion.

    Not confirmed: coaching ends with a fresh window (the old one would begin it anew at once), and
    SUSPENDED leaves to SHADOW with fresh bounds.
    """
    if confirmed or state.champion is None:
        return state, ()
    events = coaching_ended(state, at_us, "re-evaluation did not confirm")
    calm = replace(state, coaching="", coached=0, window=())
    if state.phase is not Phase.SUSPENDED:
        return calm, events
    calm = replace(calm, sequence=agreement.Sequence(), n=0)
    calm, moved = enter(calm, Phase.SHADOW, at_us, "re-evaluation did not confirm")
    return calm, events + moved


def force_full(state: ControlState, until_us: int | None) -> ControlState:
    """Hold pi at 1 until that instant; None lifts it."""
    return replace(state, forced_until_us=until_us)
