"""Agreement between two models: correlation, and bounds on it that hold at every moment.

Belongs here: the mean of scores in [0, 1] and what may be said of it while it is being watched.
Does not: what follows from it (`phases`).

The bounds are a betting confidence sequence (Waudby-Smith & Ramdas, "Estimating means of bounded
random variables by betting", JRSS-B 2024): hedged capital, with the diversified Kelly bettor
(a fixed mixture of constant fractions of the largest safe bet). Against a candidate mean m

    K+(m) = sum_k w_k prod_i (1 - c_k + c_k x_i / m)              grows when the mean exceeds m
    K-(m) = sum_k w_k prod_i (1 - c_k + c_k (1 - x_i) / (1 - m))  grows when it falls short of m

are non-negative martingales when the mean is m, and `LOWER_SHARE` * K+ + (1 - LOWER_SHARE) * K-
reaches 1/delta with probability at most delta, ever (Ville). K+ falls and K- rises in m, so each
bound is one threshold crossing. Constant fractions make the products depend on the scores only
through their histogram: the state is a few integers, exact and independent of order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Fractions and weights minimise the comparisons that graduation takes at the default threshold
# (mean 60 at agreement .97, 305 at .91, p = 1/15; docstring of `observe`). Any choice is valid.
_FRACTIONS: Final = np.array([0.95, 0.70, 0.35, 0.17, 0.08, 0.04, 0.02, 0.01])
_WEIGHTS: Final = np.array([0.6, 2.0, 4.0, 1.0, 0.5, 0.3, 0.2, 0.1])
_LOG_WEIGHTS: Final = np.log(_WEIGHTS / _WEIGHTS.sum())

LOWER_SHARE: Final = 0.8
"""Share of the starting capital that bets on the lower bound, the one graduation waits for."""

TICKS: Final = 10_000
"""Bounds are kept as whole ten-thousandths, rounded outwards."""

_LEVELS: Final = 240
"""Scores are kept as multiples of 1/240 (exact for 1/2 … 1/6, 1/8, 1/10), rounded against us."""


def correlation(mu: float, chance: float) -> float:
    """Kappa: agreement above chance. 1 always the same, 0 no better than shuffled, below 0 worse.

    `mu` and `chance` are mean scores in [0, 1]; chance counts for at most one half. Clipped to
    [-1, 1]. Increasing and (but for the clipping) affine in mu: bounds map to bounds.
    """
    p = min(chance, 0.5)
    return max(-1.0, min(1.0, (mu - p) / (1.0 - p)))


def required_agreement(kappa: float, chance: float) -> float:
    """The agreement whose correlation is `kappa`: the inverse of `correlation`."""
    p = min(chance, 0.5)
    return kappa * (1.0 - p) + p


@dataclass(frozen=True, slots=True)
class Sequence:
    """A running confidence sequence: the histogram of scores and the tightest bounds so far.

    `counts` maps a score's code (see `_encode`) to how often it came, sorted by code.
    """

    counts: tuple[tuple[int, int], ...] = ()
    low_ticks: int = 0
    high_ticks: int = TICKS

    @property
    def n(self) -> int:
        """Scores observed."""
        return sum(count for _, count in self.counts)

    def to_plain(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return {
            "counts": [list(pair) for pair in self.counts],
            "low": self.low_ticks,
            "high": self.high_ticks,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Sequence:
        """The inverse of `to_plain`."""
        counts = tuple((int(code), int(count)) for code, count in plain["counts"])
        return cls(counts, int(plain["low"]), int(plain["high"]))


def observe(sequence: Sequence, score: float, *, delta: float = 0.05) -> Sequence:
    """Fold one score in [0, 1]; the bounds then hold at all times together with 1 - delta.

    Needs (measured, delta .05, p = 1/15, until the lower bound of kappa exceeds .85): at
    agreement .97 a median of 51 and a mean of 60 comparisons; at .91 a median of 250, mean 305.
    The same `delta` must be given throughout.

    Raises:
        ValueError: the score is outside [0, 1] or not a number.
    """
    counts = dict(sequence.counts)
    code = _encode(score)
    counts[code] = counts.get(code, 0) + 1
    codes, numbers = _arrays(counts)
    need_low = -math.log(delta * LOWER_SHARE)
    need_high = -math.log(delta * (1.0 - LOWER_SHARE))
    low = _highest_rejected(codes // 2, numbers, need_low, sequence.low_ticks)
    mirrored = _LEVELS - (codes + 1) // 2
    high = TICKS - _highest_rejected(mirrored, numbers, need_high, TICKS - sequence.high_ticks)
    return Sequence(tuple(sorted(counts.items())), low, high)


def bounds(sequence: Sequence) -> tuple[float, float]:
    """(low, high) of the mean, the running intersection; [0, 1] before any observation.

    low > high says that the scores contradict a constant mean (probability at most delta when
    it is constant): start a new sequence.
    """
    return sequence.low_ticks / TICKS, sequence.high_ticks / TICKS


def lower_bound(scores: Iterable[float], delta: float) -> float:
    """One-sided lower bound of the mean of independent scores in [0, 1], at level 1 - delta.

    The same bet, settled once at the end and with all the capital on one side.
    """
    counts: dict[int, int] = {}
    for score in scores:
        code = _encode(score)
        counts[code] = counts.get(code, 0) + 1
    if not counts:
        return 0.0
    codes, numbers = _arrays(counts)
    return _highest_rejected(codes // 2, numbers, -math.log(delta), 0) / TICKS


def _encode(score: float) -> int:
    """2k for the level k/240 exactly, 2k + 1 for a score strictly between two levels."""
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"a score must lie in [0, 1], not {score!r}")
    level = score * _LEVELS
    nearest = round(level)
    return 2 * nearest if abs(level - nearest) < 1e-9 else 2 * math.floor(level) + 1


def _arrays(counts: dict[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    codes = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
    return codes, np.fromiter(counts.values(), dtype=np.float64, count=len(counts))


def _highest_rejected(
    levels: NDArray[np.int64], numbers: NDArray[np.float64], need: float, start: int
) -> int:
    """Largest tick >= start (itself known to be rejected) whose log K+ reaches `need`.

    Gallops from `start`, because most observations move the bound by nothing or by little.
    """
    scores = levels / _LEVELS
    rejected, step = start, 1
    while (probe := rejected + step) < TICKS and _log_capital(scores, numbers, probe) >= need:
        rejected, step = probe, step * 4
    open_end = min(rejected + step, TICKS)
    while open_end - rejected > 1:
        middle = (rejected + open_end) // 2
        if _log_capital(scores, numbers, middle) >= need:
            rejected = middle
        else:
            open_end = middle
    return rejected


def _log_capital(scores: NDArray[np.float64], numbers: NDArray[np.float64], tick: int) -> float:
    """log K+ against the mean tick / TICKS."""
    gains = np.log1p(_FRACTIONS[:, None] * (scores * (TICKS / tick) - 1.0)) @ numbers
    exponents: NDArray[np.float64] = _LOG_WEIGHTS + gains
    peak = float(exponents.max())
    return peak + math.log(float(np.exp(exponents - peak).sum()))
