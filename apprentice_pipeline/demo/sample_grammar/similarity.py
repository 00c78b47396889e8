"""Keeps texts apart: exact search for pairs whose character 5-grams overlap too much.

Prefix filtering (Chaudhuri, Ganti and Kaushik, ICDE 2006; Bayardo, Ma and Srikant, WWW 2007):
put every set's members in one fixed order; two sets with Jaccard similarity of at least t
share a member among the first n - ceil(t·n) + 1 of each. Only those are indexed, nothing is missed.
The rarer a gram, the earlier it should stand: the order changes the speed and never the result.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

GRAM = 5
_ROUNDING = 1e-9


def grams(text: str) -> frozenset[str]:
    """The character 5-grams of `text`, letter case and white space folded."""
    folded = " ".join(text.casefold().split())
    return frozenset(folded[i : i + GRAM] for i in range(max(1, len(folded) - GRAM + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared members over all members, 0 to 1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class Crowd:
    """Texts of which no two are as similar as `limit`; `pilot`, texts like those to come."""

    def __init__(self, limit: float, pilot: Iterable[str] = ()) -> None:
        self._limit = limit
        self._counts = Counter(gram for text in pilot for gram in grams(text))
        self._members: list[frozenset[str]] = []
        self._index: dict[str, list[int]] = defaultdict(list)

    def admit(self, text: str) -> bool:
        """Takes `text` in and returns True, unless one is there that is too similar."""
        found = grams(text)
        prefix = self._prefix(found)
        near = {place for gram in prefix for place in self._index.get(gram, ())}
        if any(self._similar(found, self._members[place]) for place in near):
            return False
        for gram in prefix:
            self._index[gram].append(len(self._members))
        self._members.append(found)
        return True

    def _similar(self, one: frozenset[str], other: frozenset[str]) -> bool:
        small, large = sorted((len(one), len(other)))
        return small >= self._limit * large - _ROUNDING and jaccard(one, other) >= self._limit

    def _prefix(self, found: frozenset[str]) -> list[str]:
        counts = self._counts
        ordered = sorted(found, key=lambda gram: (counts.get(gram, 0), gram))
        needed = math.ceil(self._limit * len(found) - _ROUNDING)
        return ordered[: len(found) - needed + 1]
