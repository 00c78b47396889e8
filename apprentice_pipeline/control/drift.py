"""A change for the worse, noticed soon, with a bounded rate of false alarms.

Belongs here: the detector on scores (labelled) and the monitor on confidences (label-free).
Does not: what an alarm sets in motion (`phases`).

The detector is an e-detector (Shin, Ramdas & Rinaldo 2022): a Shiryaev-Roberts mixture over
drops of a bounded mean. With errors y = 1 - score and y0 = 1 - m0, each bet multiplies by
L_k = 1 + c_k (y / y0 - 1), whose mean is at most 1 while the mean score is >= m0, whatever the
distribution; R_k <- (1 + R_k) L_k. Its average run length to a false alarm is at least `arl`
observations when the alarm sounds at sum_k w_k R_k >= arl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["shift", "drift"]

_ODDS_RATIOS: Final = (1.6, 2.5, 4.0, 6.5, 15.0)
"""Each bet is the likelihood ratio for error odds this many times those at m0."""

_SHARES: Final = (1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)
"""The weights w_k."""

_M0_MOST: Final = 0.999
"""A baseline of 1 would make any single error an alarm; a lower baseline keeps the promise."""


@dataclass(frozen=True, slots=True)
class Bet:
    """One component: its Shiryaev-Roberts and CUSUM statistics, and since when the latter runs."""

    sr: float = 0.0
    cusum: float = 1.0
    since: int = 0
    score_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Detector:
    """Running state against the baseline `m0`, frozen; `n` scores observed."""

    m0: float
    arl: float
    bets: tuple[Bet, ...]
    n: int = 0

    @property
    def evidence(self) -> float:
        """The mixture statistic; an alarm sounds at `arl`."""
        return sum(w * bet.sr for w, bet in zip(_SHARES, self.bets, strict=True))

    def to_plain(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        bets = [[bet.sr, bet.cusum, bet.since, bet.score_sum] for bet in self.bets]
        return {"m0": self.m0, "arl": self.arl, "bets": bets, "n": self.n}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Detector:
        """The inverse of `to_plain`."""
        return cls(**{**plain, "bets": tuple(Bet(*bet) for bet in plain["bets"])})


@dataclass(frozen=True, slots=True)
class Alarm:
    """What changed: `change_point` counts observations since the start, `size` is m0 - mean since.

    `shift`: within one window of the alarm; `drift`: over more than one.
    """

    kind: Kind
    n: int
    change_point: int
    size: float


def start(m0: float, arl: float) -> Detector:
    """A fresh detector; `m0` is the lowest mean score that counts as unchanged."""
    return Detector(min(max(m0, 0.0), _M0_MOST), arl, tuple(Bet() for _ in _ODDS_RATIOS))


def observe(detector: Detector, score: float, window_size: int) -> tuple[Detector, Alarm | None]:
    """Fold one score in [0, 1]. After an alarm, start a fresh detector.

    Measured at arl 10,000, m0 the true mean before: errors 5 % -> 15 % are found after a mean of
    79 scores, 2 % -> 10 % after 67 (0.60 and 0.61 of Lorden's ln(arl) / KL).
    """
    y0 = 1.0 - detector.m0
    relative = (1.0 - score) / y0 - 1.0
    bets = tuple(
        _advance(bet, 1.0 + _fraction(ratio, y0) * relative, score, detector.n)
        for bet, ratio in zip(detector.bets, _ODDS_RATIOS, strict=True)
    )
    after = Detector(detector.m0, detector.arl, bets, detector.n + 1)
    return after, _alarm(after, window_size) if after.evidence >= after.arl else None


def _fraction(ratio: float, y0: float) -> float:
    """c = (q - y0) / (1 - y0) for the error rate q whose odds are `ratio` times those of y0."""
    if y0 >= 1.0:
        return 0.0  # m0 = 0: nothing can be worse
    q = ratio * y0 / (1.0 - y0 + ratio * y0)
    return (q - y0) / (1.0 - y0)


def _advance(bet: Bet, growth: float, score: float, n: int) -> Bet:
    sr = (1.0 + bet.sr) * growth
    if bet.cusum <= 1.0:
        return Bet(sr, growth, n, score)
    return Bet(sr, bet.cusum * growth, bet.since, bet.score_sum + score)


def _alarm(detector: Detector, window_size: int) -> Alarm:
    """The change point is where the strongest bet's CUSUM last left zero (Page's estimate)."""
    strongest = max(detector.bets, key=lambda bet: bet.cusum)
    span = detector.n - strongest.since
    size = detector.m0 - strongest.score_sum / span
    kind: Kind = "shift" if span <= window_size else "drift"
    return Alarm(kind, detector.n, strongest.since, size)


@dataclass(frozen=True, slots=True)
class Monitor:
    """The label-free watch over every local answer's confidence and whether it was escalated.

    Learns a reference from its first `learn` answers, then runs two detectors on it: the mean
    confidence, and the share not escalated. It knows nothing of right or wrong: it may only
    raise the sampling probability, never lower it. The reference is an estimate less three
    standard errors, so its false-alarm rate is approximate, unlike the detector's.
    """

    learn: int
    arl: float
    n: int = 0
    sums: tuple[float, float] = (0.0, 0.0)
    squares: tuple[float, float] = (0.0, 0.0)
    detectors: tuple[Detector, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "detectors": [each.to_plain() for each in self.detectors]}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Monitor:
        """The inverse of `to_plain`."""
        detectors = tuple(Detector.from_plain(each) for each in plain["detectors"])
        sums, squares = tuple(plain["sums"]), tuple(plain["squares"])
        return cls(**{**plain, "sums": sums, "squares": squares, "detectors": detectors})


def watch(monitor: Monitor, confidence: float, escalated: bool) -> tuple[Monitor, bool]:
    """Fold one local answer; True when what it sees has changed: sample more, start afresh."""
    signals = (min(1.0, max(0.0, confidence)), 0.0 if escalated else 1.0)
    if monitor.detectors:
        folded = [observe(d, s, 1) for d, s in zip(monitor.detectors, signals, strict=True)]
        detectors = tuple(detector for detector, _ in folded)
        alarmed = any(alarm is not None for _, alarm in folded)
        return _with(monitor, monitor.n + 1, monitor.sums, monitor.squares, detectors), alarmed
    sums = (monitor.sums[0] + signals[0], monitor.sums[1] + signals[1])
    squares = (monitor.squares[0] + signals[0] ** 2, monitor.squares[1] + signals[1] ** 2)
    n = monitor.n + 1
    learnt = n >= monitor.learn
    detectors = tuple(
        start(_reference(n, total, square), monitor.arl)
        for total, square in (zip(sums, squares, strict=True) if learnt else ())
    )
    return _with(monitor, n, sums, squares, detectors), False


def _reference(n: int, total: float, square: float) -> float:
    mean = total / n
    variance = max(square / n - mean * mean, 1.0 / n)
    return float(mean - 3.0 * (variance / n) ** 0.5)


def _with(
    monitor: Monitor,
    n: int,
    sums: tuple[float, float],
    squares: tuple[float, float],
    detectors: tuple[Detector, ...],
) -> Monitor:
    return Monitor(monitor.learn, monitor.arl, n, sums, squares, detectors)
