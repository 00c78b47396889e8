"""The confidence threshold tau, and the certificate that what it lets through is good enough.

Belongs here: calibration on scored rows. Does not: where the rows come from, when it is run.

Fixed-sequence testing (Angelopoulos et al., "Learn then Test", 2021): thresholds of a grid fixed
beforehand are tested from the strictest to looser ones, each at the full level, and the walk
stops at the first that fails; the chance that an accepted one has a risk above alpha is at most
delta. Bounds: Clopper & Pearson (1934) for scores in {0, 1}, the betting bound otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from apprentice_pipeline.control import agreement

TAU_GRID: Final[tuple[float, ...]] = (
    *(i / 50 for i in range(45)),
    *(0.9 + i / 200 for i in range(18)),
    *(0.99 + i / 1000 for i in range(9)),
    *(0.999, 0.9995, 0.9998, 0.9999, 0.99995, 0.99999),
)
"""Confidences crowd near 1, so the grid is finer there."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Disagreement among requests with confidence >= tau is at most alpha, with 1 - delta.

    `n` calibration rows had such a confidence, `coverage` of all rows; `upper_bound` bounds
    their mean disagreement; `delta` is what the j-th calibration spent.
    """

    tau: float
    n: int
    coverage: float
    upper_bound: float
    alpha: float
    delta: float
    j: int

    @property
    def rows(self) -> int:
        """All calibration rows, those below tau included."""
        return round(self.n / self.coverage)

    def to_plain(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Certificate:
        """The inverse of `to_plain`."""
        return cls(**plain)


def spend(delta: float, j: int) -> float:
    """The share of delta that the j-th calibration (from 1) spends; all of them sum to delta."""
    if j < 1:
        raise ValueError("calibrations are counted from 1")
    return 6.0 * delta / (math.pi**2 * j**2)


def least_rows(alpha: float, delta: float) -> int:
    """Rows without one disagreement that prove a risk of at most alpha: 59 at .05 and .05."""
    return math.ceil(math.log(delta) / math.log(1.0 - alpha))


def recalibration_due(rows: int, rows_at_last: int) -> bool:
    """True when the rows at hand have doubled since the last calibration."""
    return rows >= 2 * rows_at_last


def most_servable(base_risk: float, alpha: float) -> float:
    """The largest share any router can serve at risk alpha when the model errs at `base_risk`."""
    return 1.0 if base_risk <= alpha else (1.0 - base_risk) / (1.0 - alpha)


def certify(
    confidences: Sequence[float],
    scores: Sequence[float],
    alpha: float = 0.05,
    delta: float = 0.05,
    grid: Sequence[float] = TAU_GRID,
    *,
    j: int = 1,
    starts: int = 1,
) -> Certificate | None:
    """The loosest threshold a walk accepts, or None when nothing may be served.

    `confidences` and `scores` are of the same rows; scores in [0, 1], disagreement is 1 - score.
    `delta` is what *this* calibration spends: `spend(risk_delta, j)` for the j-th.

    The walk starts at the strictest tau that keeps `least_rows`, a choice that looks at
    confidences only. That first test forgives no error, so even a good model often fails it
    (errors 2 % throughout, 600 rows: accepted in 28 % of trials). `starts` > 1 adds walks from
    looser taus, evenly spaced in rows, each at delta / starts (multi-start fixed-sequence
    testing, same source): 3 starts accept in 88 % of those trials.

    Raises:
        ValueError: lengths differ, a value is out of range, or `starts` is not positive.
    """
    if len(confidences) != len(scores):
        raise ValueError(f"{len(confidences)} confidences but {len(scores)} scores")
    if not (0.0 < alpha < 1.0 and 0.0 < delta < 1.0 and starts > 0):
        raise ValueError("alpha and delta must lie in (0, 1), starts must be positive")
    confidence, score = np.asarray(confidences, float), np.asarray(scores, float)
    if not bool(np.all((score >= 0.0) & (score <= 1.0))):
        raise ValueError("every score must lie in [0, 1]")
    taus = sorted(set(grid), reverse=True)
    least = least_rows(alpha, delta / starts)
    accepted: Certificate | None = None
    for k in range(starts):
        needed = least + max(0, len(score) - least) * k // starts
        found = _walk(confidence, score, taus, needed, alpha, delta / starts)
        if found and (accepted is None or found[1] > accepted.n):
            tau, n, bound = found
            accepted = Certificate(tau, n, n / len(score), bound, alpha, delta, j)
    return accepted


def _walk(
    confidence: NDArray[np.float64],
    score: NDArray[np.float64],
    taus: Sequence[float],
    needed: int,
    alpha: float,
    delta: float,
) -> tuple[float, int, float] | None:
    """(tau, rows kept, bound) last accepted, from the first tau that keeps `needed` rows on.

    Of taus that keep the same rows the strictest stands: the rows prove nothing below it.
    """
    accepted: tuple[float, int, float] | None = None
    for tau in taus:
        kept = score[confidence >= tau]
        if len(kept) < needed or (accepted is not None and len(kept) == accepted[1]):
            continue
        bound = disagreement_bound(kept, delta)
        if bound > alpha:
            break
        accepted = (float(tau), len(kept), bound)
    return accepted


def disagreement_bound(scores: NDArray[np.float64], delta: float) -> float:
    """Upper bound at 1 - delta on the mean of 1 - score, over independent rows."""
    if bool(np.all((scores == 0.0) | (scores == 1.0))):
        return clopper_pearson_upper(int(np.sum(scores == 0.0)), len(scores), delta)
    return 1.0 - agreement.lower_bound(scores.tolist(), delta)


def clopper_pearson_upper(errors: int, n: int, delta: float) -> float:
    """The largest rate at which `errors` or fewer of n still has probability delta.

    Exact one-sided binomial bound (Clopper & Pearson 1934), by bisection to 1e-10, rounded up.
    """
    if not 0 <= errors <= n:
        raise ValueError(f"{errors} errors of {n}")
    if errors == n:
        return 1.0
    low, high = errors / n, 1.0
    while high - low > 1e-10:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _binomial_cdf(errors, n, middle) > delta else (low, middle)
    return high


def _binomial_cdf(k: int, n: int, p: float) -> float:
    if p >= 1.0:
        return 0.0
    ratios = np.log(np.arange(n, n - k, -1.0)) - np.log(np.arange(1.0, k + 1.0))
    logs = np.concatenate(([0.0], np.cumsum(ratios + math.log(p) - math.log1p(-p))))
    return float(np.exp(logs + n * math.log1p(-p)).sum())
