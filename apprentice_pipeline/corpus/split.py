"""The split: which side an input falls on, today and for good.

Belongs here: the folded form of a conversation, the keyed draw of its side. Does not: selection
of pairs. Promises: a side depends on the folded input and the key alone, so that it never
changes as a corpus grows; inputs that differ by case, spacing, punctuation or Unicode form, or
by their system prompt alone, fall on the same side.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal

from apprentice_pipeline.records import Message

Side = Literal["train", "holdout"]

_DROPPED: Final = frozenset("PSZC")
"""Unicode categories that do not count: punctuation, symbols, separators, control and format."""


def fold(text: str) -> str:
    """NFKC and casefold, without punctuation, symbols and spacing; idempotent.

    A text of nothing else folds to its NFKC form, so that "?" and "!" stay apart.
    """
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = "".join(c for c in normal if unicodedata.category(c)[0] not in _DROPPED)
    return unicodedata.normalize("NFKC", folded) or normal.strip()


def split_input(messages: Sequence[Message]) -> bytes:
    """The folded conversation that decides the side: all turns but the system prompt.

    Turns are length-prefixed, so that text moved from one to another makes another input.
    """
    turns = [each for each in messages if each["role"] != "system"] or list(messages)
    parts = (part for turn in turns for part in (str(turn["role"]), fold(str(turn["content"]))))
    encoded = (part.encode("utf-8", "surrogatepass") for part in parts)
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def side_of(messages: Sequence[Message], split_key: bytes, holdout_fraction: float) -> Side:
    """The side of a conversation; a larger fraction only ever moves inputs to the holdout."""
    digest = hmac.digest(split_key, b"split" + split_input(messages), "sha256")
    drawn = int.from_bytes(digest[:8], "big")
    return "holdout" if drawn < holdout_fraction * 2**64 else "train"
