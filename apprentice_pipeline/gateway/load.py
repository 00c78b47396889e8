"""How many calls are under way, and whether there is room for one more.

Belongs here: the count by worker and by tenant. Does not: how a refusal is sent (`capture`).
No tenant can fill a worker alone while its share is below the whole.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

RETRY_LATER = (b"retry-after", b"1")
"""The header that goes with a refusal."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why a call is refused: the HTTP status and the words."""

    status: int
    message: str


_FULL = NoRoom(503, "this gateway has as many calls under way as it takes; try again")
_SHARE = NoRoom(429, "this tenant has as many calls under way as it may; try again")


class Load:
    """The calls under way in one worker. One event loop: nothing here waits."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._all = 0
        self._by_tenant: defaultdict[str, int] = defaultdict(int)

    @property
    def under_way(self) -> int:
        """Calls that have entered and not left."""
        return self._all

    def enter(self, tenant: str) -> NoRoom | None:
        """Counts a call in; where there is no room says why. One that entered must `leave`."""
        if self._all >= self._most:
            return _FULL
        mine = self._by_tenant[tenant]
        if mine >= self._most_of_one:
            return _SHARE
        self._all += 1
        self._by_tenant[tenant] = mine + 1
        return None

    def leave(self, tenant: str) -> None:
        """Counts a call out."""
        self._all -= 1
        left = self._by_tenant[tenant] - 1
        if left:
            self._by_tenant[tenant] = left
        else:
            del self._by_tenant[tenant]
