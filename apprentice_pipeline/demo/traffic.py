"""Reads traffic files, `{"text": …, <answer fields>}` a line, and splits them in two waves.

Files and lines only: what a line means to a task is not known here. Promises: every faulty line
is reported, by number and cause, before anything is used; no message carries a line's text; a
text never stands in both waves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from apprentice_pipeline.demo.stand_in.answers import fold
from apprentice_pipeline.errors import TrafficError

_REPORTED = 10
_REMEDY = 'each line must be a JSON object {"text": "...", <the same answer fields on every line>}'


@dataclass(frozen=True, slots=True)
class TrafficLine:
    """One request's text and the answer a frontier gives to it."""

    text: str
    answer: dict[str, Any]


def read_traffic(path: Path) -> list[TrafficLine]:
    """Reads all lines; blank ones and a byte-order mark are allowed.

    Raises: TrafficError naming the first ten faulty lines with their causes, or the file's own
    fault (absent, unreadable, empty).
    """
    lines: list[TrafficLine] = []
    faults: list[str] = []
    names: frozenset[str] | None = None
    for number, raw in enumerate(_read(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        line = _line(raw, names)
        if isinstance(line, str):
            faults.append(f"line {number}: {line}")
            continue
        names = names or frozenset(line.answer)
        lines.append(line)
    if faults:
        raise TrafficError(_listing(path, faults), remedy=_REMEDY)
    if not lines:
        raise TrafficError(f"{path.name}: no lines", remedy=_REMEDY)
    return lines


def split_waves(
    lines: Sequence[TrafficLine], second_share: float, seed: int
) -> tuple[list[TrafficLine], list[TrafficLine]]:
    """(first wave, second wave), each in the order given.

    A keyed hash of the text decides, white space and letter case folded, so that a text, also
    when it comes twice, is always on the same side; the second wave's size is `second_share` of
    the lines on average. Raises: TrafficError when a wave would be empty.
    """
    if not 0 < second_share < 1:
        raise TrafficError(
            "the second wave's share must be between 0 and 1", remedy="choose 0.2, for instance"
        )
    waves: tuple[list[TrafficLine], list[TrafficLine]] = ([], [])
    key = seed.to_bytes(16, "big", signed=True)
    for line in lines:
        text = fold(line.text).casefold().encode("utf-8", "surrogatepass")
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8, key=key).digest(), "big")
        waves[drawn < second_share * 2**64].append(line)
    if not waves[0] or not waves[1]:
        raise TrafficError(
            f"{len(lines)} lines are too few to hold back a share of {second_share}",
            remedy="give more lines, or the second wave as a file of its own",
        )
    return waves


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrafficError(
            f"{path.name} cannot be read ({error.strerror})", remedy="check the path"
        ) from None


def _listing(path: Path, faults: list[str]) -> str:
    more = len(faults) - _REPORTED
    shown = [*faults[:_REPORTED], *([f"and {more} more"] if more > 0 else [])]
    count = "1 faulty line" if len(faults) == 1 else f"{len(faults)} faulty lines"
    return f"{path.name}: {count}\n" + "\n".join(f"  {fault}" for fault in shown)


def _line(raw: bytes, names: frozenset[str] | None) -> TrafficLine | str:
    """One line, or the cause of its fault; `names` are the first good line's answer fields."""
    value = _object(raw)
    if isinstance(value, str):
        return value
    text = value.pop("text", None)
    cause = _fault_of_text(text) or _fault_of_fields(frozenset(value), names)
    return cause or TrafficLine(text, value)


def _object(raw: bytes) -> dict[str, Any] | str:
    try:
        value = orjson.loads(raw.decode())
    except UnicodeDecodeError:
        return "not UTF-8"
    except orjson.JSONDecodeError:
        return "not JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _fault_of_text(text: Any) -> str:
    if text is None:
        return "no field `text`"
    if not isinstance(text, str):
        return "`text` is not a string"
    return "" if text.strip() else "`text` is empty"


def _fault_of_fields(found: frozenset[str], names: frozenset[str] | None) -> str:
    if not found:
        return "no answer field beside `text`"
    return "" if names is None or found == names else _difference(found, names)


def _difference(found: frozenset[str], names: frozenset[str]) -> str:
    """Counts, and the missing names only: a name found may itself be someone's text."""
    missing = ", ".join(f"`{name}`" for name in sorted(names - found))
    extra = len(found - names)
    parts = [f"{missing} missing"] if missing else []
    parts += [f"{extra} more than there"] if extra else []
    return "answer fields differ from the first line's: " + ", ".join(parts)
