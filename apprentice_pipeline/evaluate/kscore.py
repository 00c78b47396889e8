"""The K-score: one number for "may this student stand in for its teacher", and what it is made of.

Belongs here: the components, their weighted geometric mean, its interval, the plain statement.
Does not: measuring (`evaluate.holdout`), deciding (`evaluate.gate`). Pure: equal rows, inputs
and seed, equal score, so that whoever holds the rows can compute it again.

K = A^.40 · V^.15 · R^.15 · S^.10 · L^.10 · C^.10 over the components present, the weights
renormalised: no component buys another, and a zero anywhere is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from apprentice_pipeline.corpus.slices import LEAST_ROWS
from apprentice_pipeline.errors import TooFewPairs
from apprentice_pipeline.evaluate import bootstrap

WEIGHTS: Final[Mapping[str, float]] = {
    "A": 0.40,
    "V": 0.15,
    "R": 0.15,
    "S": 0.10,
    "L": 0.10,
    "C": 0.10,
}
_CHANCE_SCORES: Final = 20_000
_HOUR_US: Final = 3_600_000_000

NO_CHANCE: Final = 0.5
"""Chance where it cannot be estimated: the most that κ lets it be."""


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One holdout row, scored.

    `latency_us` is a single-request latency, 0 where it was not measured; `weight` the capped
    inverse inclusion probability; `verified` whether the teacher's answer is a trusted one;
    `slice` is "" for none.
    """

    row_hash: str
    score: float
    valid: bool
    slice: str
    confidence: float
    latency_us: int
    weight: float
    verified: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return _plain(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EvalRow:
        """The inverse of `to_dict`. Raises: TypeError for unknown or missing keys."""
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class ScoreInputs:
    """What K needs besides the rows; None is unknown (or, for a target, not set).

    `bootstrap` is the number of resamples; with 0 there is no interval of K (it is 0–1).
    """

    size_bytes: int
    target_size_bytes: int | None = None
    target_latency_us: int | None = None
    teacher_latency_us: int | None = None
    local_cost_usd: float | None = None
    remote_cost_usd: float | None = None
    bootstrap: int = 1_000
    seed: int = 17

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return _plain(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ScoreInputs:
        """The inverse of `to_dict`. Raises: TypeError for unknown keys."""
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class KScore:
    """A student's score. `low`–`high` and `fidelity_low`–`fidelity_high` are 95 % intervals.

    `components` holds A, V, R, S, L and C, None where dropped (the reason in `dropped`). All are
    over the `n` verified rows; `fidelity_all` is A over all `n_all`. `k_score_v1` is the older
    composite and gates nothing. `p50_us` is None where no latency was measured.
    """

    k: float
    low: float
    high: float
    components: Mapping[str, float | None]
    fidelity: float
    fidelity_low: float
    fidelity_high: float
    fidelity_all: float
    n: int
    n_all: int
    dropped: tuple[str, ...]
    k_score_v1: float
    worst_slice: str | None
    p50_us: int | None
    statement: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **_plain(self),
            "components": dict(self.components),
            "dropped": list(self.dropped),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> KScore:
        """The inverse of `to_dict`. Raises: TypeError for unknown or missing keys."""
        return cls(**{**plain, "dropped": tuple(plain["dropped"])})


def k_score(rows: Sequence[EvalRow], inputs: ScoreInputs) -> KScore:
    """The score of these rows.

    Raises: TooFewPairs when no verified row is among them.
    """
    trusted = [row for row in rows if row.verified]
    if not trusted:
        raise TooFewPairs(
            f"none of {len(rows)} holdout rows is verified, so there is nothing to score",
            remedy="run verification, or capture more traffic",
        )
    table = bootstrap.Table.of(trusted, least_rows=LEAST_ROWS)
    constants, dropped = _constants(inputs, table)
    components = _components(table.point(), constants)
    k = compose(components)
    low, high = _interval(table, constants, inputs, k)
    fidelity_low, fidelity_high = bootstrap.fidelity_interval(
        table, resamples=inputs.bootstrap, seed=inputs.seed
    )
    everything = bootstrap.Table.of(rows, least_rows=LEAST_ROWS).point()
    fidelity, p50 = float(components["A"] or 0.0), table.p50_us
    return KScore(
        k=k,
        low=low,
        high=high,
        components=components,
        fidelity=fidelity,
        fidelity_low=fidelity_low,
        fidelity_high=fidelity_high,
        fidelity_all=everything.fidelity,
        n=len(trusted),
        n_all=len(rows),
        dropped=dropped,
        k_score_v1=k_score_v1(fidelity, float(components["V"] or 0.0), p50, inputs),
        worst_slice=table.worst_slice,
        p50_us=p50,
        statement=statement(fidelity, fidelity_low, fidelity_high, len(trusted))
        + _on_all(everything.fidelity, len(rows), len(trusted)),
    )


def compose(components: Mapping[str, float | None]) -> float:
    """The weighted geometric mean of the components present, in [0, 1].

    None drops a component and renormalises the weights. Increasing in every component.
    """
    present = {name: value for name, value in components.items() if value is not None}
    total = sum(WEIGHTS[name] for name in present)
    if total == 0 or any(value <= 0.0 for value in present.values()):
        return 0.0
    logs = (WEIGHTS[name] / total * math.log(value) for name, value in present.items())
    return min(1.0, math.exp(math.fsum(logs)))


def k_score_v1(fidelity: float, validity: float, p50_us: int | None, inputs: ScoreInputs) -> float:
    """The older composite: 0.40 A + 0.15 S′ + 0.15 L′ + 0.15 C′ + 0.15 V, each in [0, 1].

    S′ = 1 − log2(max(1, KB))/30, L′ = 1/(1 + p50_µs/100000), C′ = 1/(1 + 1000 · local USD a
    call); an unknown local cost counts as none, an unmeasured latency as L′ = 0.
    """
    size = 1.0 - math.log2(max(1.0, inputs.size_bytes / 1024)) / 30
    speed = 0.0 if p50_us is None else 1.0 / (1.0 + p50_us / 100_000)
    thrift = 1.0 / (1.0 + 1_000 * (inputs.local_cost_usd or 0.0))
    parts = [_clamp(each) for each in (fidelity, size, speed, thrift, validity)]
    return 0.40 * parts[0] + 0.15 * math.fsum(parts[1:])


def statement(fidelity: float, low: float, high: float, n: int) -> str:
    """A stated plainly, in whole percent; the interval is rounded outwards."""
    percent, least, most = round(100 * fidelity), _floor(100 * low), _ceil(100 * high)
    return (
        f"replicates {percent} % of the teacher's behaviour on {n} held-out requests "
        f"(95 % CI {least}–{most})"
    )


def _on_all(fidelity: float, n_all: int, n: int) -> str:
    if n_all == n:
        return ""
    return f"; {round(100 * fidelity)} % on all {n_all}, answers that are not verified included"


def chance(
    remote: Sequence[Any], local: Sequence[Any], score: Callable[[Any, Any], float], seed: int
) -> float:
    """Mean score of shuffled pairs: the local answer of one row against the remote of another.

    Seeded; at most 20,000 scores, each local answer against equally many others. With fewer than
    two rows `NO_CHANCE`.
    """
    if len(remote) != len(local):
        raise ValueError("one local answer for each remote answer")
    pairs = shuffled(len(remote), seed)
    if not pairs:
        return NO_CHANCE
    return math.fsum(score(remote[i], local[j]) for i, j in pairs) / len(pairs)


def shuffled(n: int, seed: int) -> list[tuple[int, int]]:
    """Index pairs i ≠ j in which every index stands equally often on each side."""
    if n < 2:
        return []
    order = [int(each) for each in np.random.default_rng(seed).permutation(n)]
    turns = min(n - 1, max(1, _CHANCE_SCORES // n))
    return [(order[at], order[(at + turn) % n]) for turn in range(1, turns + 1) for at in range(n)]


def _constants(
    inputs: ScoreInputs, table: bootstrap.Table
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """S and C, the latency target, and why a component is dropped."""
    dropped = []
    target = inputs.target_latency_us or inputs.teacher_latency_us
    if table.p50_us is None:
        dropped.append("L dropped: no single-request latency was measured")
    elif not target:
        dropped.append("L dropped: no target latency and no captured teacher latency")
    cost = _cost(inputs)
    if cost is None:
        dropped.append("C dropped: the price of a local or a remote call is unknown")
    if not table.slices:
        dropped.append(f"R dropped: no slice or cluster has {LEAST_ROWS} rows")
    size = 1.0
    if inputs.target_size_bytes:
        size = min(1.0, inputs.target_size_bytes / max(1, inputs.size_bytes))
    target_us = None if table.p50_us is None or not target else float(target)
    return {"S": size, "C": cost, "target_us": target_us}, tuple(dropped)


def cost_per_call(usd_per_hour: float, rows: Sequence[EvalRow]) -> float | None:
    """What a call costs on a machine that answers one at a time, US dollars, at the median of the
    measured latencies; None where none was measured and the machine is not free."""
    latencies = [row.latency_us for row in rows if row.latency_us > 0]
    if not usd_per_hour:
        return 0.0
    return usd_per_hour * median(latencies) / _HOUR_US if latencies else None


def _cost(inputs: ScoreInputs) -> float | None:
    if inputs.local_cost_usd is None or not inputs.remote_cost_usd:
        return None
    return _clamp(1.0 - inputs.local_cost_usd / inputs.remote_cost_usd)


def _components(
    point: bootstrap.Point, constants: Mapping[str, float | None]
) -> dict[str, float | None]:
    target, p50 = constants["target_us"], point.p50_us
    speed = None if target is None or p50 is None else min(1.0, target / max(1.0, p50))
    return {
        "A": point.fidelity,
        "V": point.validity,
        "R": point.robustness,
        "S": constants["S"],
        "L": speed,
        "C": constants["C"],
    }


def _interval(
    table: bootstrap.Table, constants: Mapping[str, float | None], inputs: ScoreInputs, k: float
) -> tuple[float, float]:
    """95 % percentile bootstrap over rows, widened to hold K where the worst slice biases it."""
    if inputs.bootstrap < 1:
        return 0.0, 1.0
    draws = table.resample(inputs.bootstrap, inputs.seed)
    columns: dict[str, NDArray[np.float64] | float | None] = {
        "A": draws.fidelity,
        "V": draws.validity,
        "R": draws.robustness,
        "S": constants["S"],
        "L": None,
        "C": constants["C"],
    }
    target = constants["target_us"]
    if target is not None and draws.p50_us is not None:
        columns["L"] = np.minimum(1.0, target / np.maximum(1.0, draws.p50_us))
    present = {name: value for name, value in columns.items() if value is not None}
    total = sum(WEIGHTS[name] for name in present)
    scores = np.ones(inputs.bootstrap)
    for name, value in present.items():
        scores = scores * np.power(value, WEIGHTS[name] / total)
    low, high = np.quantile(scores, (0.025, 0.975))
    return min(k, _clamp(float(low))), max(k, _clamp(float(high)))


def _plain(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))


def _floor(percent: float) -> int:
    return math.floor(percent + 1e-9)


def _ceil(percent: float) -> int:
    return math.ceil(percent - 1e-9)
