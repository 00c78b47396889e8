"""Weighted means of holdout rows and their resampling, all rows and resamples at once.

Belongs here: the arithmetic of A, V, R and p50 on arrays, bootstrap draws, intervals.
Does not: what the numbers mean (`evaluate.kscore`). Efron & Tibshirani (1993), percentile
intervals; seeded. Memory is bounded: draws are made in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from apprentice_pipeline.verify.verification import wilson

if TYPE_CHECKING:
    from apprentice_pipeline.evaluate.kscore import EvalRow

Array = NDArray[np.float64]
_BLOCK: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """A, V, R and the median latency of some rows; None where they have none."""

    fidelity: float
    validity: float
    robustness: float | None
    p50_us: float | None


@dataclass(frozen=True, slots=True)
class Draws:
    """The same of many resamples, one entry each."""

    fidelity: Array
    validity: Array
    robustness: Array | None
    p50_us: Array | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as columns. `slices` are those with enough rows, each a 0/1 column of `members`."""

    scores: Array
    valid: Array
    weights: Array
    latencies_us: Array
    slices: tuple[str, ...]
    members: Array

    @classmethod
    def of(cls, rows: Sequence[EvalRow], *, least_rows: int) -> Table:
        """The table of these rows; at least one is needed."""
        names = [row.slice for row in rows]
        slices = tuple(
            name for name in sorted(set(names)) if name and names.count(name) >= least_rows
        )
        members = np.array([[float(name == each) for each in slices] for name in names])
        return cls(
            scores=np.array([row.score for row in rows], dtype=np.float64),
            valid=np.array([row.valid for row in rows], dtype=np.float64),
            weights=np.array([row.weight for row in rows], dtype=np.float64),
            latencies_us=np.array([r.latency_us for r in rows if r.latency_us > 0], dtype=float),
            slices=slices,
            members=members.reshape(len(rows), len(slices)),
        )

    @property
    def p50_us(self) -> int | None:
        """Median of the latencies that were measured, None where none was."""
        return round(float(np.median(self.latencies_us))) if self.latencies_us.size else None

    @property
    def worst_slice(self) -> str | None:
        """The slice of least fidelity, None without slices."""
        if not self.slices:
            return None
        means = _slice_means(self, np.ones((1, len(self.scores))))[0]
        return self.slices[int(np.nanargmin(means))]

    @property
    def effective_rows(self) -> float:
        """Kish's effective sample size (Σw)²/Σw²: fewer than the rows when weights differ."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def point(self) -> Point:
        """The figures of the rows themselves."""
        draws = _figures(self, np.ones((1, len(self.scores))))
        robustness = None if draws.robustness is None else float(draws.robustness[0])
        p50 = self.p50_us
        return Point(
            fidelity=float(draws.fidelity[0]),
            validity=float(draws.validity[0]),
            robustness=robustness,
            p50_us=None if p50 is None else float(p50),
        )

    def resample(self, resamples: int, seed: int) -> Draws:
        """The figures of `resamples` bootstrap samples of the rows (latencies on their own)."""
        rng = np.random.default_rng(seed)
        parts = [_figures(self, counts) for counts in _counts(rng, len(self.scores), resamples)]
        sliced = [part.robustness for part in parts if part.robustness is not None]
        return Draws(
            fidelity=np.concatenate([part.fidelity for part in parts]),
            validity=np.concatenate([part.validity for part in parts]),
            robustness=np.concatenate(sliced) if sliced else None,
            p50_us=self._medians(rng, resamples),
        )

    def _medians(self, rng: np.random.Generator, resamples: int) -> Array | None:
        n = self.latencies_us.size
        if not n:
            return None
        block = max(1, _BLOCK // n)
        parts = []
        for start in range(0, resamples, block):
            picks = rng.integers(n, size=(min(block, resamples - start), n))
            parts.append(np.median(self.latencies_us[picks], axis=1))
        return np.concatenate(parts)


def fidelity_interval(table: Table, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of the mean score: Wilson where scores are 0 or 1, else bootstrap.

    Weighted rows count as their effective number.
    """
    mean = table.point().fidelity
    if np.isin(table.scores, (0.0, 1.0)).all() or resamples < 1:
        return wilson(mean, table.effective_rows)
    draws = table.resample(resamples, seed).fidelity
    low, high = np.quantile(draws, (0.025, 0.975))
    return min(mean, float(low)), max(mean, float(high))


def mean_quantile(
    values: Array, weights: Array, *, share: float, resamples: int, seed: int
) -> float:
    """A quantile of the bootstrap distribution of a weighted mean."""
    rng = np.random.default_rng(seed)
    means = [
        (counts @ (weights * values)) / np.maximum(counts @ weights, 1e-300)
        for counts in _counts(rng, len(values), resamples)
    ]
    return float(np.quantile(np.concatenate(means), share))


def _counts(rng: np.random.Generator, n: int, resamples: int) -> Iterator[Array]:
    """How often each row is in each resample, in blocks of resamples."""
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield rng.multinomial(n, np.full(n, 1.0 / n), size=size).astype(np.float64)


def _figures(table: Table, counts: Array) -> Draws:
    total = np.maximum(counts @ table.weights, 1e-300)
    fidelity = (counts @ (table.weights * table.scores)) / total
    robustness = None
    if table.slices:
        worst = np.nanmin(_slice_means(table, counts), axis=1, initial=np.inf)
        ratio = worst / np.where(fidelity > 0, fidelity, 1.0)
        robustness = np.where(fidelity > 0, np.clip(ratio, 0.0, 1.0), 0.0)
    return Draws(
        fidelity=np.clip(fidelity, 0.0, 1.0),
        validity=np.clip((counts @ (table.weights * table.valid)) / total, 0.0, 1.0),
        robustness=robustness,
        p50_us=None,
    )


def _slice_means(table: Table, counts: Array) -> Array:
    """Fidelity of every slice in every resample; NaN where a resample has none of its rows."""
    weighted = counts * table.weights
    totals = weighted @ table.members
    sums = (weighted * table.scores) @ table.members
    means: Array = np.where(totals > 0, sums / np.where(totals > 0, totals, 1.0), np.nan)
    return means
