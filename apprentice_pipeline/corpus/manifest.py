"""Manifests: which rows a corpus froze, under a Merkle root that proves each of them.

Belongs here: the record, its canonical JSON (RFC 8785), strict reading, inclusion proofs.
Does not: sealing or storing it, building the corpus.
It holds ids and keyed hashes, never content, but stays sealed all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import rfc8785

from apprentice_pipeline.corpus import merkle
from apprentice_pipeline.corpus.rows import CorpusRow
from apprentice_pipeline.corpus.split import Side
from apprentice_pipeline.errors import CorpusError

FORMAT: Final = "apprentice-corpus/1"
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_KEYS: Final = frozenset(
    {"format", "tenant", "namespace", "created_us", "rows", "verdicts", "merkle_root", "config"}
)
_REMEDY: Final = "rebuild the corpus; this manifest was changed or belongs to another version"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One frozen row: its pair, its keyed hash, its side, verdict and slice."""

    pair_id: str
    row_hash: str
    side: Side
    verdict: str
    slice: str

    def leaf(self) -> bytes:
        """The bytes that stand in the Merkle tree."""
        return rfc8785.dumps(self._plain())

    def _plain(self) -> list[str]:
        return [self.pair_id, self.row_hash, self.side, self.verdict, self.slice]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A frozen corpus: rows by row hash, train and holdout together, under `merkle_root` (hex)."""

    tenant: str
    namespace: str
    created_us: int
    rows: tuple[ManifestRow, ...]
    verdicts: Mapping[str, int]
    merkle_root: str
    config: Mapping[str, Any]

    @property
    def train(self) -> tuple[ManifestRow, ...]:
        """The rows learnt from."""
        return tuple(row for row in self.rows if row.side == "train")

    @property
    def holdout(self) -> tuple[ManifestRow, ...]:
        """The rows judged by."""
        return tuple(row for row in self.rows if row.side == "holdout")

    @property
    def pair_ids(self) -> tuple[str, ...]:
        """Every pair of the corpus."""
        return tuple(row.pair_id for row in self.rows)

    def side_root(self, side: Side) -> str:
        """The Merkle root (hex) of one side alone."""
        return merkle_root(row for row in self.rows if row.side == side)

    def proof(self, pair_id: str) -> InclusionProof:
        """The proof that a pair is part of this corpus. Raises: CorpusError when it is not."""
        index = next((at for at, row in enumerate(self.rows) if row.pair_id == pair_id), None)
        if index is None:
            raise CorpusError(f"pair {pair_id} is not part of this corpus")
        path = merkle.inclusion_proof([row.leaf() for row in self.rows], index)
        return InclusionProof(self.rows[index], index, len(self.rows), path, self.merkle_root)

    def to_json(self) -> bytes:
        """Canonical JSON: equal manifests, equal bytes."""
        return rfc8785.dumps(
            {
                "format": FORMAT,
                "tenant": self.tenant,
                "namespace": self.namespace,
                "created_us": self.created_us,
                "rows": [row._plain() for row in self.rows],
                "verdicts": dict(self.verdicts),
                "merkle_root": self.merkle_root,
                "config": dict(self.config),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """The manifest in `data`.

        Raises: CorpusError when it is not canonical, not of this format, has unknown or missing
        keys, a row twice, or rows that do not have its Merkle root.
        """
        document = _object(data)
        try:
            rows = tuple(_row(plain) for plain in document["rows"])
            manifest = cls(
                tenant=_typed(document["tenant"], str),
                namespace=_typed(document["namespace"], str),
                created_us=_typed(document["created_us"], int),
                rows=rows,
                verdicts=_typed(document["verdicts"], dict),
                merkle_root=_typed(document["merkle_root"], str),
                config=_typed(document["config"], dict),
            )
        except (TypeError, ValueError):
            raise CorpusError(
                "the manifest has a value of the wrong type", remedy=_REMEDY
            ) from None
        _require_consistency(manifest, data)
        return manifest


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That a row stands in a corpus, checkable with the root alone."""

    row: ManifestRow
    index: int
    size: int
    path: tuple[bytes, ...]
    root: str

    def holds(self) -> bool:
        """Whether the path leads from the row to the root."""
        root = bytes.fromhex(self.root)
        return merkle.check_inclusion(self.row.leaf(), self.index, self.size, self.path, root)


def merkle_root(rows: Iterable[ManifestRow]) -> str:
    """The RFC 6962 root (hex) over manifest rows in the order given."""
    return merkle.merkle_root([row.leaf() for row in rows]).hex()


def freeze(
    train: Sequence[CorpusRow],
    holdout: Sequence[CorpusRow],
    *,
    tenant: str,
    namespace: str,
    created_us: int,
    config: Mapping[str, Any],
) -> Manifest:
    """The manifest of these rows, ordered by row hash and pair."""
    sides: list[tuple[Side, CorpusRow]] = [("train", row) for row in train]
    sides += [("holdout", row) for row in holdout]
    rows = sorted(
        (ManifestRow(r.pair_id, r.row_hash, side, r.verdict, r.slice) for side, r in sides),
        key=lambda row: (row.row_hash, row.pair_id),
    )
    verdicts: dict[str, int] = {}
    for row in rows:
        verdicts[row.verdict] = verdicts.get(row.verdict, 0) + 1
    return Manifest(
        tenant=tenant,
        namespace=namespace,
        created_us=created_us,
        rows=tuple(rows),
        verdicts=verdicts,
        merkle_root=merkle_root(rows),
        config=dict(config),
    )


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise CorpusError("the manifest is not JSON", remedy=_REMEDY) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CorpusError(f"the manifest is not of format {FORMAT}", remedy=_REMEDY)
    if document.keys() != _KEYS:
        raise CorpusError("the manifest has unknown or missing keys", remedy=_REMEDY)
    return document


def _row(plain: Any) -> ManifestRow:
    pair_id, row_hash, side, verdict, name = (_typed(each, str) for each in _typed(plain, list))
    if side not in ("train", "holdout") or not _HEX.fullmatch(row_hash):
        raise ValueError
    return ManifestRow(pair_id, row_hash, side, verdict, name)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value


def _require_consistency(manifest: Manifest, data: bytes) -> None:
    ids = manifest.pair_ids
    if len(set(ids)) != len(ids):
        raise CorpusError("the manifest names a pair twice", remedy=_REMEDY)
    if merkle_root(manifest.rows) != manifest.merkle_root:
        raise CorpusError("the manifest's rows do not have its Merkle root", remedy=_REMEDY)
    if manifest.to_json() != data:
        raise CorpusError("the manifest is not canonical JSON", remedy=_REMEDY)
