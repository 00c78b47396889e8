"""Stage 1: the gateway's spools drained into the lake, and one day of a stream counted."""

from __future__ import annotations

from dataclasses import dataclass

from apprentice_pipeline.reading.spools import drain_spools
from apprentice_pipeline.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Collected:
    """One day of a stream; `by_model` holds (model, pairs, USD), `by_hour` (UTC hour, pairs)."""

    tenant: str
    namespace: str
    day: str
    drained: int
    exchanges: int
    pairs: int
    by_model: tuple[tuple[str, int, float], ...]
    by_hour: tuple[tuple[int, int], ...]


def collect(workspace: Workspace, tenant: str, namespace: str, day: str) -> Collected:
    """Drains every spool of this node, then counts the day. Exactly once, however often run."""
    drained = drain_spools(workspace)
    where = {"namespace": namespace, "day": day}
    models = workspace.lake.sql(tenant, _BY_MODEL, **where)
    hours = workspace.lake.sql(tenant, _BY_HOUR, **where)
    return Collected(
        tenant=tenant,
        namespace=namespace,
        day=day,
        drained=drained.rows,
        exchanges=sum(row["exchanges"] for row in models),
        pairs=sum(row["pairs"] for row in models),
        by_model=tuple((row["model"], row["pairs"], row["cost_usd"]) for row in models),
        by_hour=tuple((row["hour"], row["pairs"]) for row in hours),
    )


_BY_MODEL = """
select model, count(*) as exchanges, count(*) filter (where is_pair) as pairs,
       coalesce(sum(cost_usd), 0.0)::double as cost_usd
from captures where namespace = $namespace and date = $day
group by model order by pairs desc, model
"""
_BY_HOUR = """
select (created_at_us // 3600000000 % 24)::int as hour, count(*) filter (where is_pair) as pairs
from captures where namespace = $namespace and date = $day
group by hour order by hour
"""
