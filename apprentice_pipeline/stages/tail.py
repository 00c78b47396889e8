"""What a champion does not serve, why, and how much it could serve at most.

Belongs here: gathering the tail report from counters and comparisons, and its words. Does not:
the estimates of agreement (`control`), which never look at the tail.
A large tail is normal: it is reported and feeds retraining; it is no emergency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apprentice_pipeline.records import date_of
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Tail:
    """One champion's tail, since it took over.

    `escalated`: requests whose local answer was not good enough to give. `compared` and `score`:
    answers below tau that were compared, and their mean score. `base_risk`: the mean disagreement
    over all sampled comparisons, weighted by how probable each was; None before the first.
    `most_servable`: the share of eligible traffic that no router can exceed at that risk.
    `ineligible`: requests the local model was not asked at all, by kind of reason.
    """

    escalated: int = 0
    compared: int = 0
    score: float | None = None
    base_risk: float | None = None
    most_servable: float | None = None
    ineligible: Mapping[str, int] = field(default_factory=dict)


def tail_of(workspace: Workspace, champion: ChampionRecord) -> Tail:
    """The champion's tail. Raises: StoreError."""
    from apprentice_pipeline.control.risk import most_servable
    from apprentice_pipeline.routing import tail

    counters = workspace.state.counters(
        champion.tenant, champion.namespace, since_day=date_of(champion.at_us)
    )
    compared = _compared(workspace, champion)
    risk = compared["base_risk"]
    alpha = workspace.config.serving.max_disagreement
    return Tail(
        escalated=int(counters.get(tail.escalated(champion.version), 0)),
        compared=int(compared["compared"]),
        score=compared["score"],
        base_risk=risk,
        most_servable=None if risk is None else most_servable(risk, alpha),
        ineligible=tail.ineligible_by_kind(counters, champion.version),
    )


def lines(found: Tail) -> tuple[str, str, str]:
    """In words: the tail, the limit of what can be served, the ineligible."""
    return _escalated(found), _servable(found), _ineligible(found)


def _escalated(found: Tail) -> str:
    if found.score is None:
        return f"tail: {found.escalated} escalated, none below the threshold compared"
    return (
        f"tail: {found.escalated} escalated; {found.compared} below the threshold compared, "
        f"mean score {found.score:.3f}"
    )


def _servable(found: Tail) -> str:
    if found.base_risk is None or found.most_servable is None:
        return "base risk unknown: no sampled comparison yet"
    return (
        f"base risk {found.base_risk:.3f}: at most {found.most_servable:.1%} of eligible traffic "
        "can be served"
    )


def _ineligible(found: Tail) -> str:
    if not found.ineligible:
        return "ineligible: none"
    reasons = ", ".join(f"{kind} {count}" for kind, count in found.ineligible.items())
    return f"ineligible: {sum(found.ineligible.values())} ({reasons})"


def _compared(workspace: Workspace, champion: ChampionRecord) -> dict[str, Any]:
    if workspace.lake.is_empty(champion.tenant):
        return {"compared": 0, "score": None, "base_risk": None}
    return workspace.lake.sql(
        champion.tenant, _COMPARED, namespace=champion.namespace, version=champion.version
    )[0]


_COMPARED = """
select count(*) filter (where confidence < tau)::bigint as compared,
       avg(score) filter (where confidence < tau)::double as score,
       (sum((1 - score) / pi) filter (where sampled and pi > 0)
        / sum(1 / pi) filter (where sampled and pi > 0))::double as base_risk
from comparisons
where namespace = $namespace and version = $version
"""
