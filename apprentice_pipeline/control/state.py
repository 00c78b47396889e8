"""The records of the controller: what it is told and what it remembers.

Belongs here: frozen values and their JSON. Does not: any decision (`phases`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Final

from apprentice_pipeline.control import agreement, drift
from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.sampling import STEPS, Decay, Sampling, SamplingSettings, Steps

DRIFT: Final = "drift"
"""The cause of coaching that a drift alarm began."""

SEEN_MOST: Final = 256
"""How many recent pair ids are remembered, to ignore a comparison delivered twice."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One task's thresholds (on kappa), sampling and risk settings; `arl` in comparisons."""

    phase2_to_phase3: float = 0.85
    coaching_trigger: float = 0.70
    emergency_threshold: float = 0.50
    window_size: int = 100
    decay_function: Decay = "exponential"
    step_table: Steps = STEPS
    min_floor: float = 0.02
    trend_sensitivity: float = 0.05
    max_disagreement: float = 0.05
    risk_delta: float = 0.05
    arl: float = 10_000.0
    confidence_delta: float = 0.05

    @property
    def sampling(self) -> SamplingSettings:
        """The part that `sampling_probability` needs."""
        return SamplingSettings(
            coaching_trigger=self.coaching_trigger,
            decay_function=self.decay_function,
            min_floor=self.min_floor,
            trend_sensitivity=self.trend_sensitivity,
            steps=self.step_table,
        )


@dataclass(frozen=True, slots=True)
class Champion:
    """A promoted model; `chance` (mean score of shuffled pairs) is frozen with it.

    `calibration_rows`: rows the certificate, or its refusal, came from; 0 reads it off the
    certificate. `digest`: its artifact's, "" in a state that was written before it was kept.
    """

    version: int
    chance: float
    certificate: Certificate | None = None
    calibration_rows: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A remote and a local answer to one request, scored; `tau` and `pi` as its plan had them.

    `champion_version`, when given, keeps a late comparison of a former champion out.
    """

    pair_id: str
    confidence: float
    score: float
    sampled: bool
    served: bool
    tau: float | None
    pi: float
    at_us: int
    champion_version: int | None = None


@dataclass(frozen=True, slots=True)
class ControlState:
    """Everything the controller remembers of one task.

    `n` counts comparisons in the estimates since promotion, `n_sampled` all sampled ones,
    `n_compared` the rest too. `coaching` is its cause or empty, `coached` the comparisons since,
    `coaching_since_us` when the alarm behind it sounded;
    `wary` counts down the comparisons that a label-free suspicion still demands.
    """

    phase: Phase = Phase.COLLECT
    since_us: int = 0
    champion: Champion | None = None
    window: tuple[float, ...] = ()
    sequence: agreement.Sequence = field(default_factory=agreement.Sequence)
    detector: drift.Detector | None = None
    monitor: drift.Monitor | None = None
    sampling: Sampling = field(default_factory=Sampling)
    forced_until_us: int | None = None
    coaching: str = ""
    coached: int = 0
    coaching_since_us: int = 0
    wary: int = 0
    n: int = 0
    n_sampled: int = 0
    n_compared: int = 0
    calibrations: int = 0
    calibrated_rows: int = 0
    base_rows: int = 0
    recalibration_due: bool = False
    seen: tuple[str, ...] = ()

    @classmethod
    def initial(cls) -> ControlState:
        """No champion, nothing seen."""
        return cls()

    @property
    def mu_hat(self) -> float | None:
        """Mean score over the window, None while it is empty."""
        return sum(self.window) / len(self.window) if self.window else None

    @property
    def kappa_hat(self) -> float | None:
        """Correlation over the window, None while it is empty or without a champion."""
        mu = self.mu_hat
        return None if mu is None or self.champion is None else self._kappa(mu)

    @property
    def kappa_low(self) -> float | None:
        """Anytime-valid lower bound of kappa, None without a champion."""
        return None if self.champion is None else self._kappa(agreement.bounds(self.sequence)[0])

    @property
    def kappa_high(self) -> float | None:
        """Anytime-valid upper bound of kappa, None without a champion."""
        return None if self.champion is None else self._kappa(agreement.bounds(self.sequence)[1])

    @property
    def alarm_at_us(self) -> int | None:
        """When the trouble began that stands now: a suspension, or coaching; None for none."""
        if self.phase is Phase.SUSPENDED:
            return self.since_us
        return (self.coaching_since_us or self.since_us) if self.coaching else None

    @property
    def drifting(self) -> bool:
        """Whether a drift alarm is the cause of coaching."""
        return self.coaching == DRIFT

    @property
    def tau(self) -> float | None:
        """The certified threshold, None when nothing may be served."""
        certificate = self.champion.certificate if self.champion else None
        return certificate.tau if certificate else None

    def _kappa(self, mu: float) -> float:
        return agreement.correlation(mu, self.champion.chance if self.champion else 0.0)

    def to_json(self) -> str:
        """One line of JSON; the same state gives the same text."""
        plain = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ControlState:
        """The inverse of `to_json`. A field that an older version did not write is defaulted.

        Raises:
            ValueError, KeyError, TypeError: the text is not a state of ours.
        """
        return cls(**{name: _read(name, value) for name, value in json.loads(text).items()})


def _plain(value: Any) -> Any:
    if isinstance(value, agreement.Sequence | drift.Detector | drift.Monitor):
        return value.to_plain()
    if isinstance(value, Champion):
        certificate = value.certificate.to_plain() if value.certificate else None
        return [value.version, value.chance, certificate, value.calibration_rows, value.digest]
    if isinstance(value, Sampling):
        return [value.pi, value.kappa]
    return value


def _read(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "champion":
        version, chance, certificate, rows, *digest = value
        proven = Certificate.from_plain(certificate) if certificate else None
        return Champion(version, chance, proven, rows, *digest)
    readers: dict[str, Any] = {
        "phase": Phase,
        "sequence": agreement.Sequence.from_plain,
        "detector": drift.Detector.from_plain,
        "monitor": drift.Monitor.from_plain,
        "sampling": lambda pair: Sampling(*pair),
        "window": tuple,
        "seen": tuple,
    }
    return readers[name](value) if name in readers else value
