"""Whether requests that wait are answered faster together or one after another, by measurement.

Belongs here: the choice of a batch's size from the times of earlier ones. Does not: the queue,
the clock. On a processor, with a small base whose answers repeat themselves, one at a time is
faster, for then the model drafts (`evaluate.student_drafts`); on an accelerator, or with a larger
base, batches are. Promise: it finds out which, and looks again now and then.
"""

from __future__ import annotations

LOOK_AGAIN = 50
_MEMORY = 0.2


class Pace:
    """Seconds an answer takes alone and in company, each a moving average."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._alone_s: float | None = None
        self._together_s: float | None = None
        self._decisions = 0

    def batch_size(self) -> int:
        """How many may go together next."""
        self._decisions += 1
        faster_alone = (
            self._alone_s is not None
            and self._together_s is not None
            and self._alone_s < self._together_s
        )
        if self._decisions % LOOK_AGAIN == 0:
            faster_alone = not faster_alone
        return 1 if faster_alone else self._max_batch

    def note(self, size: int, took_s: float) -> None:
        """A batch of `size` took so long."""
        each_s = took_s / size
        if size == 1:
            self._alone_s = _moved(self._alone_s, each_s)
        else:
            self._together_s = _moved(self._together_s, each_s)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + _MEMORY * (value - average)
