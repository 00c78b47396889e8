"""Texts as hashed character n-gram vectors: similarity of wording with nothing to download.

Belongs here: the vectors. Does not: meaning (`serving.embedding`). The hashing trick of
Weinberger et al. (2009): every 3-gram adds ±1 to one of `DIMENSIONS` buckets. Stable across
processes and versions: CRC-32, not Python's seeded hash.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DIMENSIONS: Final = 512
_N: Final = 3
_MOST_CHARS: Final = 20_000


def char_vectors(texts: Sequence[str], dimensions: int = DIMENSIONS) -> NDArray[np.floating[Any]]:
    """One row of unit length a text (zeros for an empty one); case and spacing do not count.

    Of a text beyond 20,000 characters only the beginning is read.
    """
    vectors = np.zeros((len(texts), dimensions), dtype=np.float32)
    for row, text in enumerate(texts):
        buckets, signs = _grams(text, dimensions)
        np.add.at(vectors[row], buckets, signs)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: NDArray[np.floating[Any]] = vectors / np.where(norms == 0, 1, norms)
    return result


def _grams(text: str, dimensions: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    folded = " ".join(text[:_MOST_CHARS].casefold().split())
    if not folded:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    padded = f" {folded} "
    codes = np.fromiter(
        (zlib.crc32(padded[at : at + _N].encode()) for at in range(len(padded) - _N + 1)),
        dtype=np.int64,
    )
    signs = np.where((codes >> 31) & 1, -1.0, 1.0).astype(np.float32)
    return (codes & 0x7FFFFFFF) % dimensions, signs
