"""Loosely typed values of exports: times, numbers, JSON inside text.

Belongs here: one value at a time. Does not: records. Raises `WireError` for what is there but
cannot be read; what is not there is None.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire.forms import count

_LATEST_US: Final = 253_402_300_800_000_000
"""The year 10000: no call was made after it."""


def first_of(record: dict[str, Any], *names: str) -> Any:
    """The value of the first name that is there and not empty, else None."""
    for name in names:
        value = record.get(name)
        if value is not None and value not in ("", [], {}):
            return value
    return None


def json_value(value: Any) -> Any:
    """What a text holds where it is a JSON object or list; else `value` as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def moment_us(value: Any) -> int | None:
    """UTC microseconds of ISO text or an epoch number (s, ms, µs or ns, told by its size).

    A time without a zone is UTC. Raises: WireError.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _text_moment(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WireError("a time is not one")
    at_us = _epoch_us(value)
    if not 0 < at_us < _LATEST_US:
        raise WireError("a time lies outside the years 1970 to 9999")
    return at_us


def seconds_us(value: Any) -> int:
    """A duration in seconds as microseconds; 0 where there is none."""
    number = real(value)
    return 0 if number is None or number < 0 else round(number * 1_000_000)


def between_us(start_us: int | None, end_us: int | None) -> int:
    """The microseconds between two moments; 0 where one is missing or they are reversed."""
    if start_us is None or end_us is None:
        return 0
    return max(0, end_us - start_us)


def tokens(value: Any) -> int | None:
    """A non-negative whole number, also as text; else None."""
    if isinstance(value, str) and value.strip().isdigit():
        return count(int(value[:19]))
    if isinstance(value, float) and value.is_integer():
        return count(int(value))
    return count(value)


def real(value: Any) -> float | None:
    """A finite number, also as text; else None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def text_or_empty(value: Any) -> str:
    """`value` where it is text (or a number, as text), else ""."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _text_moment(text: str) -> int | float:
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else _iso_us(text)
    except (ValueError, OverflowError):
        raise WireError("a time is not one") from None


def _iso_us(text: str) -> int:
    found = datetime.fromisoformat(text)
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds


def _epoch_us(value: int | float) -> int:
    """Seconds below 10¹¹, then milliseconds, microseconds, nanoseconds, a thousand apart."""
    scale = 1_000_000
    for limit in (1e11, 1e14, 1e17):
        if abs(value) < limit:
            return round(value * scale)
        scale //= 1_000
    return int(value) // 1_000
