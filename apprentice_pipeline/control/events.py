"""The phases, and what the controller announces when something changes.

Belongs here: frozen records, past facts. Does not: any decision (`phases`, `folding`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from apprentice_pipeline.control import drift
from apprentice_pipeline.control.risk import Certificate


class Phase(StrEnum):
    """Who answers: COLLECT and SHADOW and SUSPENDED remote, SERVE the certified slice locally."""

    COLLECT = "collect"
    SHADOW = "shadow"
    SERVE = "serve"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The controller moved from one phase to another."""

    at_us: int
    before: Phase
    after: Phase
    why: str


@dataclass(frozen=True, slots=True)
class DriftDetected:
    """Agreement fell below its level at graduation; numbers count comparisons since then.

    `change_point` and `n` (the alarm) count from the start of the detector; `size` is the fall.
    """

    at_us: int
    kind: drift.Kind
    change_point: int
    n: int
    size: float


@dataclass(frozen=True, slots=True)
class ShiftSuspected:
    """Confidences or escalations changed, without labels: a window is sampled in full."""

    at_us: int


@dataclass(frozen=True, slots=True)
class CoachingChanged:
    """Coaching began (`on`) or ended."""

    at_us: int
    on: bool
    why: str


@dataclass(frozen=True, slots=True)
class CertificateChanged:
    """A calibration's outcome; None when no threshold qualifies and nothing may be served."""

    at_us: int
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class RecalibrationDue:
    """The calibration rows have doubled: certify again on `rows` rows, as the j-th."""

    at_us: int
    rows: int
    j: int


@dataclass(frozen=True, slots=True)
class SequenceRestarted:
    """The scores contradict a constant mean, so the bounds begin anew."""

    at_us: int
    why: str


Event = (
    PhaseChanged
    | DriftDetected
    | ShiftSuspected
    | CoachingChanged
    | CertificateChanged
    | RecalibrationDue
    | SequenceRestarted
)
