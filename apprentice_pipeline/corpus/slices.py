"""Slices of a corpus: groups whose fidelity is looked at apart, so that no group is lost in a mean.

Belongs here: the label field of JSON answers, clusters of inputs where there is none.
Does not: scores. Names are opaque (`label-…`, `cluster-…`): an artifact may carry them.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from apprentice_pipeline.corpus.rows import CorpusRow
from apprentice_pipeline.verify.answers import NOT_JSON, json_of
from apprentice_pipeline.verify.vectors import char_vectors

LEAST_ROWS: Final = 20
"""Rows a slice needs to be looked at apart."""

_LEAST_VALUES, _MOST_VALUES = 2, 50
_MOST_CHARS: Final = 64
_MOST_CLUSTERS: Final = 8
_ITERATIONS: Final = 50


def assign_slices(
    train: Sequence[CorpusRow], holdout: Sequence[CorpusRow], *, row_key: bytes, seed: int = 17
) -> tuple[tuple[CorpusRow, ...], tuple[CorpusRow, ...]]:
    """Both sides with their slices named.

    By the answers' label field when labels with `LEAST_ROWS` holdout rows make up half of the
    holdout (those with fewer are pooled into no slice), else by clusters of the holdout's
    inputs, else none: two of fifteen labels would say little of the worst.
    """
    rows = [*train, *holdout]
    names = _label_names(rows, row_key)
    held = names[len(train) :]
    if not _cover_half(held):
        names = [""] * len(train) + cluster_names([_asked(row) for row in holdout], seed)
        held = names[len(train) :]
    keep = _qualifying(held)
    named = [
        replace(row, slice=name if name in keep else "")
        for row, name in zip(rows, names, strict=True)
    ]
    return tuple(named[: len(train)]), tuple(named[len(train) :])


def label_field(values: Sequence[Any]) -> str | None:
    """The most informative categorical field of JSON answers: the one of greatest entropy.

    Candidates have 2 to 50 distinct values, each a short string, number or truth value.
    """
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) < len(values) * 0.95 or not objects:
        return None
    fields = sorted({name for value in objects for name in value})
    scored = [(_entropy([value.get(name) for value in objects]), name) for name in fields]
    best, name = max(scored, key=lambda each: each[0], default=(0.0, ""))
    return name if best > 0.0 else None


def cluster_names(texts: Sequence[str], seed: int) -> list[str]:
    """A cluster for each text: spherical k-means on hashed character 3-grams, seeded.

    As many clusters as leave each about twice `LEAST_ROWS`, at most 8; none below 2 clusters.
    """
    k = min(_MOST_CLUSTERS, len(texts) // (2 * LEAST_ROWS))
    if k < 2:
        return [""] * len(texts)
    labels = _k_means(np.asarray(char_vectors(texts), dtype=np.float64), k, seed)
    return [f"cluster-{label}" for label in labels]


def _label_names(rows: Sequence[CorpusRow], row_key: bytes) -> list[str]:
    values = [json_of(row.completion) for row in rows]
    field = label_field([None if value is NOT_JSON else value for value in values])
    if field is None:
        return [""] * len(rows)
    return [
        _opaque(value[field], row_key) if isinstance(value, dict) and field in value else ""
        for value in values
    ]


def _opaque(value: Any, row_key: bytes) -> str:
    content = f"{type(value).__name__}:{value}".encode("utf-8", "surrogatepass")
    return f"label-{hmac.new(row_key, b'slice' + content, 'sha256').hexdigest()[:12]}"


def _entropy(values: Sequence[Any]) -> float:
    """Bits of a categorical column, 0 where it is not one."""
    if not all(isinstance(value, str | int | float | bool | None) for value in values):
        return 0.0
    counts = Counter(f"{type(value).__name__}:{value}" for value in values)
    short = all(len(name) <= _MOST_CHARS for name in counts)
    if not short or not _LEAST_VALUES <= len(counts) <= min(_MOST_VALUES, len(values) // 2):
        return 0.0
    shares = np.fromiter(counts.values(), dtype=np.float64) / len(values)
    return float(-(shares * np.log2(shares)).sum())


def _qualifying(names: Sequence[str]) -> frozenset[str]:
    counts = Counter(name for name in names if name)
    return frozenset(name for name, count in counts.items() if count >= LEAST_ROWS)


def _cover_half(names: Sequence[str]) -> bool:
    keep = _qualifying(names)
    return bool(keep) and sum(name in keep for name in names) * 2 >= len(names)


def _asked(row: CorpusRow) -> str:
    turns = [str(each["content"]) for each in row.messages if each["role"] != "system"]
    return turns[-1] if turns else ""


def _k_means(points: NDArray[np.float64], k: int, seed: int) -> NDArray[np.int64]:
    """Lloyd's algorithm on unit vectors, k-means++ seeding (Arthur & Vassilvitskii 2007)."""
    rng = np.random.default_rng(seed)
    centres = points[[int(rng.integers(len(points)))]]
    while len(centres) < k:
        far = np.clip(1.0 - (points @ centres.T).max(axis=1), 0.0, None)
        total = far.sum()
        chance = far / total if total > 0 else np.full(len(points), 1.0 / len(points))
        centres = np.vstack([centres, points[int(rng.choice(len(points), p=chance))]])
    labels = np.zeros(len(points), dtype=np.int64)
    for _ in range(_ITERATIONS):
        nearest = (points @ centres.T).argmax(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        sums = np.vstack([points[labels == each].sum(axis=0) for each in range(k)])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.where(norms > 0, norms, 1.0), centres)
    return labels
