"""The order in which rows are drawn for training: pure and seeded.

Promises: an epoch draws as many rows as there are; a row of weight w is expected
n·w/Σw times, and gets that number rounded down or up (systematic resampling), so with equal
weights an epoch is a permutation. Rows of similar length share a batch.
"""

import random
from collections.abc import Sequence

_POOL = 20  # batches sorted by length together: little padding, still well mixed


def draw_order(
    lengths: Sequence[int], weights: Sequence[float], *, epochs: int, batch_size: int, seed: int
) -> list[int]:
    """Row numbers in training order, epoch after epoch, the last batch of an epoch maybe short.

    Only the last batch overall may be short: epochs are joined before they are cut into batches.
    """
    rng = random.Random(seed)
    drawn = [row for _ in range(epochs) for row in _epoch(weights, rng)]
    ordered: list[int] = []
    span = _POOL * batch_size
    for start in range(0, len(drawn), span):
        pool = sorted(drawn[start : start + span], key=lambda row: lengths[row])
        batches = [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        short = [batch for batch in batches if len(batch) < batch_size]
        full = [batch for batch in batches if len(batch) == batch_size]
        rng.shuffle(full)
        ordered += [row for batch in (*full, *short) for row in batch]
    return ordered


def _epoch(weights: Sequence[float], rng: random.Random) -> list[int]:
    """One systematic resample of all rows, shuffled before and after."""
    rows = list(range(len(weights)))
    rng.shuffle(rows)
    step = sum(weights) / len(weights)
    reach, position = rng.random() * step, 0.0
    drawn: list[int] = []
    for row in rows:
        position += weights[row]
        while reach < position and len(drawn) < len(rows):
            drawn.append(row)
            reach += step
    drawn += rows[: len(rows) - len(drawn)]
    rng.shuffle(drawn)
    return drawn
