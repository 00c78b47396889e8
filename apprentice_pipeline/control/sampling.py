"""How large a share of eligible requests is put to both models.

Belongs here: the keyed draw and the decay of the sampling probability pi. Does not: why pi is
forced to 1 (coaching, phases: `phases`).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

Decay = Literal["exponential", "linear", "step"]

Steps = tuple[tuple[float, float], ...]
"""The table of `step`: (from this u on, this pi), ascending in u."""

STEPS: Steps = ((0.0, 1.0), (0.25, 0.5), (0.5, 0.25), (0.75, 0.1), (0.9, 0.0))

_DRAW_BITS = 53


def keyed_draw(key: bytes, request_id: str) -> float:
    """A reproducible uniform draw in [0, 1): the top 53 bits of HMAC-SHA256(key, id).

    Every replica draws the same for the same request, without a shared counter, and nobody
    without the key can choose an id that is never sampled.
    """
    digest = hmac.digest(key, request_id.encode(), hashlib.sha256)
    return float(int.from_bytes(digest[:8], "big") >> (64 - _DRAW_BITS)) / float(1 << _DRAW_BITS)


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """The `sampling` section and the task's coaching trigger."""

    coaching_trigger: float = 0.70
    decay_function: Decay = "exponential"
    min_floor: float = 0.02
    trend_sensitivity: float = 0.05
    steps: Steps = STEPS


@dataclass(frozen=True, slots=True)
class Sampling:
    """The probability in force, and the kappa it was set at (None: never set by a kappa)."""

    pi: float = 1.0
    kappa: float | None = None


def decayed(kappa_hat: float, settings: SamplingSettings) -> float:
    """Pi for one kappa, without memory: 1 at or below the coaching trigger, the floor at 1."""
    trigger, floor = settings.coaching_trigger, settings.min_floor
    room = 1.0 - trigger
    u = min(1.0, max(0.0, (kappa_hat - trigger) / room)) if room > 0.0 else 0.0
    if settings.decay_function == "linear":
        pi = 1.0 - (1.0 - floor) * u
    elif settings.decay_function == "step":
        pi = next((share for start, share in reversed(settings.steps) if u >= start), 1.0)
    else:
        # floor 0 would jump to 0 for any u > 0: decay towards one in a million instead.
        pi = max(floor, 1e-6) ** u
    return min(1.0, max(floor, pi))


def sampling_probability(
    kappa_hat: float | None,
    previous: Sampling,
    settings: SamplingSettings,
    forced_until_us: int | None,
    now_us: int,
) -> Sampling:
    """The next probability, moved only when kappa moved by at least `trend_sensitivity`.

    The comparison is with the kappa at which pi was last set, so that a slow creep moves it too.
    While `now_us` < `forced_until_us`, or without a kappa, pi is 1.
    """
    if kappa_hat is None or (forced_until_us is not None and now_us < forced_until_us):
        return Sampling()
    if (
        previous.kappa is not None
        and _moved(kappa_hat, previous.kappa) < settings.trend_sensitivity
    ):
        return previous
    return Sampling(decayed(kappa_hat, settings), kappa_hat)


def _moved(kappa: float, since: float) -> float:
    return round(abs(kappa - since), 12)  # .90 - .85 is a move of .05, whatever floats say
