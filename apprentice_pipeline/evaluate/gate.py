"""The gate: whether a challenger may be served, and if not, why and what to do.

Belongs here: the conditions, each with its remedy. Does not: the score itself, promotion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from apprentice_pipeline.config import KScoreGate
from apprentice_pipeline.errors import GateRefused
from apprentice_pipeline.evaluate import bootstrap
from apprentice_pipeline.evaluate.kscore import EvalRow, KScore

_LEVEL: Final = 0.05
"""One-sided level of the comparison with the champion."""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Passed, or the failing conditions in words and what to do about each."""

    passed: bool
    failures: tuple[str, ...]
    remedy: str

    def raise_if_refused(self) -> None:
        """Raises: GateRefused with the failures and the remedy."""
        if not self.passed:
            raise GateRefused(list(self.failures), remedy=self.remedy)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "passed": self.passed,
            "failures": list(self.failures),
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Paired:
    """Challenger minus champion on the rows both answered: mean and lower 95 % bound."""

    n: int
    difference: float
    low: float


def check_gate(
    score: KScore,
    gate: KScoreGate,
    *,
    holdout: int,
    newer_than_champion: bool | None,
    champion_rows: Sequence[EvalRow] | None,
    rows: Sequence[EvalRow],
    leaked: bool,
    seed: int = 17,
) -> GateDecision:
    """All conditions at once.

    `holdout` counts the verified holdout rows; `newer_than_champion` says whether some of them
    are newer than the champion (None without a champion); `champion_rows` are the champion's own
    scores, `rows` the challenger's, matched by row hash.
    """
    found = [
        _leakage(leaked),
        _enough_rows(holdout, gate),
        _newer(newer_than_champion),
        _k(score, gate),
        _fidelity(score, gate),
        _non_inferiority(champion_rows, rows, gate, seed),
    ]
    failures = [each for each in found if each is not None]
    return GateDecision(
        passed=not failures,
        failures=tuple(failure for failure, _ in failures),
        remedy="; ".join(_each_once([remedy for _, remedy in failures])),
    )


def paired_difference(
    champion_rows: Sequence[EvalRow],
    rows: Sequence[EvalRow],
    *,
    resamples: int = 1_000,
    seed: int = 17,
) -> Paired | None:
    """The weighted mean difference on common verified rows, None where there are none."""
    before = {row.row_hash: row.score for row in champion_rows}
    common = [row for row in rows if row.verified and row.row_hash in before]
    if not common:
        return None
    differences = np.array([row.score - before[row.row_hash] for row in common])
    weights = np.array([row.weight for row in common])
    mean = float((weights * differences).sum() / weights.sum())
    low = bootstrap.mean_quantile(
        differences, weights, share=_LEVEL, resamples=max(100, resamples), seed=seed
    )
    return Paired(len(common), mean, min(mean, low))


def _each_once(remedies: Sequence[str]) -> list[str]:
    """What one remedy says already, another need not say again."""
    once = list(dict.fromkeys(remedies))
    return [each for each in once if not any(each in other for other in once if other != each)]


Failure = tuple[str, str] | None


def _leakage(leaked: bool) -> Failure:
    if not leaked:
        return None
    return (
        "train and holdout share inputs",
        "build the corpus again; the score of this one means nothing",
    )


def _enough_rows(holdout: int, gate: KScoreGate) -> Failure:
    if holdout >= gate.min_holdout:
        return None
    return (
        f"{holdout} verified holdout rows of {gate.min_holdout} needed",
        f"capture {gate.min_holdout - holdout} more holdout rows, raise "
        "distill.holdout_fraction, or lower kscore.min_holdout",
    )


def _newer(newer: bool | None) -> Failure:
    if newer is None or newer:
        return None
    return (
        "no holdout row is newer than the champion",
        "wait for traffic captured after the champion was made",
    )


def _k(score: KScore, gate: KScoreGate) -> Failure:
    if score.k >= gate.gate:
        return None
    present = {name: value for name, value in score.components.items() if value is not None}
    weakest = min(present, key=lambda name: (present[name], name))
    return (
        f"K-score {score.k:.3f} is below the gate of {gate.gate:.2f}",
        f"component {weakest} is weakest at {present[weakest]:.2f}: {_ADVICE[weakest]}",
    )


_ADVICE: Final = {
    "A": "train on more verified pairs, for longer, or from a larger base model",
    "V": "raise local.max_new_tokens, or train for longer, until answers keep the schema",
    "R": "capture more of the worst slice, or raise coaching.tail_oversampling",
    "S": "lower distill.rank, take a smaller base, or raise the target size",
    "L": "take a smaller base or a faster backend, or raise kscore.target_latency_ms",
    "C": "serve from cheaper hardware; the local call costs nearly what the remote one does",
}


def _fidelity(score: KScore, gate: KScoreGate) -> Failure:
    if score.fidelity_low >= gate.min_fidelity:
        return None
    if score.fidelity >= gate.min_fidelity:
        remedy = "enlarge the holdout: fidelity itself is above, its interval is too wide"
    else:
        remedy = _ADVICE["A"]
    return (
        f"lower bound of fidelity {score.fidelity_low:.3f} is below {gate.min_fidelity:.2f}",
        remedy,
    )


def _non_inferiority(
    champion_rows: Sequence[EvalRow] | None,
    rows: Sequence[EvalRow],
    gate: KScoreGate,
    seed: int,
) -> Failure:
    if champion_rows is None:
        return None
    paired = paired_difference(champion_rows, rows, resamples=gate.bootstrap, seed=seed)
    if paired is None:
        return (
            "no row was answered by both challenger and champion",
            "evaluate the champion on the challenger's holdout",
        )
    margin = gate.non_inferiority_margin
    if paired.low >= -margin:
        return None
    said = (
        f"may be worse than the champion: difference {paired.difference:+.3f}, lower bound "
        f"{paired.low:+.3f} on {paired.n} rows, margin −{margin:.3f}"
    )
    return said, _more_rows(paired, margin)


def _more_rows(paired: Paired, margin: float) -> str:
    """Enough rows shrink the distance from mean to bound like 1/√n, if the mean stays."""
    room = paired.difference + margin
    if room <= 0:
        return "keep the champion, or train the challenger further"
    needed = math.ceil(paired.n * ((paired.difference - paired.low) / room) ** 2)
    return f"more rows are needed to tell: about {needed} holdout rows instead of {paired.n}"
