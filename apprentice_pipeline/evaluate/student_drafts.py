"""Drafts for decoding: how earlier answers went on from a given beginning.

Tasks with short structured answers repeat themselves; the likeliest continuation is nearly
always one already given. Promises: bounded memory; holds token numbers in memory only.
"""

from collections.abc import Sequence

_MAX_ANSWERS, _MAX_TOKENS = 512, 128


class Drafts:
    """Counts of the answers given so far, forgetting the rarest when there are too many."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, ...], int] = {}

    def learn(self, tokens: Sequence[int]) -> None:
        """Remembers one finished answer."""
        if len(tokens) > _MAX_TOKENS:
            return
        key = tuple(tokens)
        self._counts[key] = self._counts.get(key, 0) + 1
        if len(self._counts) > _MAX_ANSWERS:
            kept = sorted(self._counts.items(), key=lambda item: -item[1])[: _MAX_ANSWERS // 2]
            self._counts = {tokens: (count + 1) // 2 for tokens, count in kept}

    def propose(self, begun: Sequence[int]) -> list[int]:
        """The commonest continuation of `begun`; empty when none is known."""
        start, length = tuple(begun), len(begun)
        best: tuple[int, ...] = ()
        most = 0
        for tokens, count in self._counts.items():
            if count > most and len(tokens) > length and tokens[:length] == start:
                best, most = tokens, count
        return list(best[length:])
