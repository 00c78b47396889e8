"""What to do with one request, given the state: before the local answer, and after it.

Belongs here: the plan and the verdict. Does not: eligibility (`eligibility`), changes of state.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.control.state import ControlState


class Verdict(StrEnum):
    """What a local answer's confidence decides."""

    SERVED = "served"
    ESCALATED = "escalated"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one request.

    `shadow`: ask the local model in the background after the remote answered. `sampled`: the
    request's comparison counts in the estimates; in SERVE, ask remote in the background as well.
    """

    answer_from: Literal["remote", "local_first"]
    shadow: bool
    sampled: bool
    pi: float
    tau: float | None
    reason: str


def plan(state: ControlState, draw: float, eligible_reason: str | None, *, now_us: int = 0) -> Plan:
    """Decide one request: `draw` from `keyed_draw`, `eligible_reason` from `eligible`.

    `now_us` matters only to `force_full`.
    """
    if state.champion is None:
        return Plan("remote", False, False, 1.0, None, "no champion")
    if eligible_reason is not None:
        return Plan("remote", False, False, 1.0, state.tau, eligible_reason)
    if state.phase is not Phase.SERVE or state.tau is None:
        return Plan("remote", True, True, 1.0, state.tau, state.phase.value)
    forced = state.forced_until_us is not None and now_us < state.forced_until_us
    pi = 1.0 if forced else state.sampling.pi
    return Plan("local_first", False, draw < pi, pi, state.tau, state.phase.value)


def judge(state: ControlState, plan: Plan, confidence: float) -> Verdict:
    """Serve the local answer when its plan allows and its confidence reaches the plan's tau.

    A suspension between plan and answer escalates it, and so does a confidence that is NaN.
    """
    permitted = plan.answer_from == "local_first" and state.phase is Phase.SERVE
    if permitted and plan.tau is not None and confidence >= plan.tau:
        return Verdict.SERVED
    return Verdict.ESCALATED


def inclusion_probability(plan: Plan, verdict: Verdict | None) -> float:
    """How probable it was that this request became a pair: 1, but pi when answered locally."""
    return plan.pi if verdict is Verdict.SERVED else 1.0
