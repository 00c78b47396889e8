"""Whether an alarm was right: the champion's scores on fresh holdout rows against its own promise.

Belongs here: the level a champion must keep, and the decision. Does not: which rows are fresh,
scoring them, what follows (`phases.reevaluate`).

An alarm rests on what was routed and compared, one request after another. The re-evaluation asks
the same champion about rows it never learnt from, captured since the alarm began, teacher answers
that failed verification left out. Too few of them decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from apprentice_pipeline.control import agreement
from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.control.state import ControlState, Policy

LEAST_ROWS: Final = 30
"""Fresh rows that decide: the standard error of an agreement of .9 is then .055."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Correlation on `rows` fresh rows, the level it needed, and whether the trouble is real."""

    rows: int
    kappa: float
    needed: float

    @property
    def confirmed(self) -> bool:
        """Whether the champion is below what it must keep."""
        return self.kappa < self.needed


def judge_alarm(
    state: ControlState, rows: Iterable[tuple[float, float]], policy: Policy
) -> Outcome | None:
    """The outcome on (confidence, score) rows; None where fewer than `LEAST_ROWS` count.

    As in the estimates, a row counts when its confidence is at least the tau in force.
    """
    tau = state.tau
    scores = [score for confidence, score in rows if tau is None or confidence >= tau]
    if len(scores) < LEAST_ROWS or state.champion is None:
        return None
    kappa = agreement.correlation(sum(scores) / len(scores), state.champion.chance)
    return Outcome(len(scores), kappa, level_to_keep(state, policy))


def level_to_keep(state: ControlState, policy: Policy) -> float:
    """The correlation below which the standing alarm is right.

    The emergency's threshold; for drift, the level at graduation that the detector watches; for
    low agreement, the coaching trigger.
    """
    if state.phase is Phase.SUSPENDED:
        return policy.emergency_threshold
    if state.detector is not None and state.champion is not None and state.drifting:
        return agreement.correlation(state.detector.m0, state.champion.chance)
    return policy.coaching_trigger
