"""Dialogue turns as they are read from the file; no task, no model.

Promises: the same file gives the same turns in the same order.
"""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_PUNCTUATION = re.compile(r"[.,!?;:\"()]+(?=\s|$)|(?<=\s)[\"(]+|^[\"(]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class Turn:
    """One user turn with its annotation; `slots` maps a name to words of the text."""

    text: str
    service: str
    intent: str
    slots: dict[str, str]
    before: str


def read_turns(path: Path) -> list[Turn]:
    """Reads `turns.jsonl` or `turns.jsonl.gz`, in file order."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [_turn(json.loads(line)) for line in lines if line.strip()]


def _turn(row: dict[str, object]) -> Turn:
    slots = row.get("slots")
    return Turn(
        text=str(row["text"]).strip(),
        service=str(row["service"]),
        intent=str(row["intent"]),
        slots={str(k): str(v) for k, v in slots.items()} if isinstance(slots, dict) else {},
        before=str(row.get("system") or "").strip(),
    )


def plain(text: str) -> str:
    """The text as people type it into a search box: lower case, no closing punctuation."""
    return " ".join(_PUNCTUATION.sub("", text).lower().split())


def words(text: str) -> list[str]:
    """Lower-case words in text order."""
    return WORD.findall(text.lower())


def name_words(name: str) -> tuple[str, ...]:
    """`FindBus`, `from_city` → their lower-case words."""
    return tuple(part.lower() for part in _CAMEL.findall(name))
