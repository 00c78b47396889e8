"""The real controller on a virtual clock: what a policy would do to a stream of traffic.

Belongs here: a deterministic stream of requests. Does not: reading a scenario (`scenario`); any
rule of its own: every decision is `phases`, `risk`, `drift` and `sampling`.

A request's confidence c is uniform and the chance that both models agree on it is
1 - 3 (1 - a)(1 - c)^2, whose mean is the day's agreement `a`: errors gather where confidence
is low. Draws are keyed hashes, so the same scenario gives the same table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from apprentice_pipeline.control import phases, risk
from apprentice_pipeline.control.events import Event, RecalibrationDue
from apprentice_pipeline.control.phases import Champion, Comparison, ControlState
from apprentice_pipeline.control.sampling import keyed_draw
from apprentice_pipeline.control.scenario import Scenario, Stretch

DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Day:
    """One row of the table; shares are of all requests, `disagreement` of those served."""

    day: int
    phase: str
    kappa_hat: float | None
    kappa_low: float | None
    kappa_high: float | None
    pi: float
    tau: float | None
    requests: int
    served: int
    escalated: int
    comparisons: int
    share_local: float
    disagreement: float | None
    spend_usd: float
    frontier_only_usd: float
    events: tuple[str, ...]


def simulate(scenario: Scenario) -> tuple[Day, ...]:
    """Run every day of the scenario and return its daily table."""
    run = _Run(scenario)
    table: list[Day] = []
    for stretch in scenario.stretches:
        for index in range(stretch.days):
            table.append(run.day(len(table), stretch, promote=stretch.promote and index == 0))
    return tuple(table)


class _Run:
    """The mutable middle of one simulation: the state, the calibration rows, the day's sums."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.policy = scenario, scenario.policy
        self.key = scenario.seed.encode()
        self.state = ControlState.initial()
        self.version = 0
        self.rows: list[tuple[float, float]] = []

    def day(self, number: int, stretch: Stretch, *, promote: bool) -> Day:
        """Simulate one day and sum it up."""
        self.events: list[str] = []
        self.served = self.escalated = self.wrong = self.remote_calls = self.local_calls = 0
        before = self.state.n_compared
        if promote:
            self._promote(number, stretch.agreement)
            before = 0
        for index in range(stretch.requests_per_day):
            at_us = number * DAY_US + index * (DAY_US // max(1, stretch.requests_per_day))
            self._request(f"{number}/{index}", at_us, stretch)
        return self._summary(number, stretch.requests_per_day, self.state.n_compared - before)

    def _promote(self, number: int, agreement: float) -> None:
        self.version += 1
        self.rows = [
            self._answer(f"holdout/{self.version}/{i}", agreement)
            for i in range(self.scenario.holdout)
        ]
        champion = Champion(
            self.version, self.scenario.chance, self._certify(1), self.scenario.holdout
        )
        at_us = number * DAY_US
        self._take(phases.promote(self.state, champion, self.policy, at_us))

    def _request(self, name: str, at_us: int, stretch: Stretch) -> None:
        ineligible = keyed_draw(self.key, f"{name}/eligible") < stretch.ineligible_share
        plan = phases.plan(
            self.state,
            keyed_draw(self.key, f"{name}/sample"),
            "ineligible" if ineligible else None,
            now_us=at_us,
        )
        asked = plan.answer_from == "local_first" or plan.shadow
        if not asked:
            self.remote_calls += 1
            return
        confidence, score = self._answer(name, stretch.agreement)
        verdict = phases.judge(self.state, plan, confidence)
        served = verdict is phases.Verdict.SERVED
        compared = plan.sampled or not served
        self.local_calls += 1
        self.remote_calls += compared
        self.served += served
        self.wrong += served and score == 0.0
        self.escalated += plan.answer_from == "local_first" and not served
        escalated = plan.tau is None or confidence < plan.tau
        self._take(phases.watch(self.state, confidence, escalated, self.policy, at_us))
        if not compared:
            return
        if plan.sampled:
            self.rows.append((confidence, score))
        comparison = Comparison(
            name, confidence, score, plan.sampled, served, plan.tau, plan.pi, at_us, self.version
        )
        self._take(phases.observe(self.state, comparison, self.policy))

    def _answer(self, name: str, agreement: float) -> tuple[float, float]:
        confidence = keyed_draw(self.key, f"{name}/confidence")
        agrees = 1.0 - 3.0 * (1.0 - agreement) * (1.0 - confidence) ** 2
        return confidence, float(keyed_draw(self.key, f"{name}/agree") < agrees)

    def _certify(self, j: int) -> risk.Certificate | None:
        confidences, scores = zip(*self.rows, strict=True) if self.rows else ((), ())
        delta = risk.spend(self.policy.risk_delta, j)
        return risk.certify(confidences, scores, self.policy.max_disagreement, delta, j=j)

    def _take(self, step: tuple[ControlState, tuple[Event, ...]]) -> None:
        self.state, events = step
        for event in events:
            self.events.append(_describe(event))
            if isinstance(event, RecalibrationDue):
                certificate = self._certify(event.j)
                self._take(phases.recertify(self.state, certificate, len(self.rows), event.at_us))

    def _summary(self, number: int, requests: int, comparisons: int) -> Day:
        state, costs = self.state, self.scenario
        spend = self.remote_calls * costs.remote_cost_usd + self.local_calls * costs.local_cost_usd
        return Day(
            day=number,
            phase=state.phase.value,
            kappa_hat=state.kappa_hat,
            kappa_low=state.kappa_low,
            kappa_high=state.kappa_high,
            pi=state.sampling.pi,
            tau=state.tau,
            requests=requests,
            served=self.served,
            escalated=self.escalated,
            comparisons=comparisons,
            share_local=self.served / requests if requests else 0.0,
            disagreement=self.wrong / self.served if self.served else None,
            spend_usd=spend,
            frontier_only_usd=requests * costs.remote_cost_usd,
            events=tuple(self.events),
        )


def _describe(event: Event) -> str:
    """`DriftDetected kind=shift size=0.1` and so on, without the time."""
    shown = [
        f"{each.name}={getattr(event, each.name)}"
        for each in fields(event)
        if each.name not in ("at_us", "certificate")
    ]
    return " ".join([type(event).__name__, *shown])
