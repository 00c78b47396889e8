"""Erasing what a tenant asks for, and marking every model version that was trained on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apprentice_pipeline.artifact.receipt import facts_of
from apprentice_pipeline.corpus.manifest import Manifest
from apprentice_pipeline.errors import ApprenticeError, KeyMissing
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages.artifact import verify_file
from apprentice_pipeline.stages.promotion import open_registry
from apprentice_pipeline.store import erasure
from apprentice_pipeline.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased: exchanges, and the model versions (tenant.namespace/version) marked."""

    tenant: str
    namespace: str | None
    pairs: int
    marked_versions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def erase(workspace: Workspace, tenant: str, namespace: str | None, pair_id: str | None) -> Erased:
    """Erases a pair, a namespace or a tenant everywhere; its models stay, marked.

    The corpora are read before the rows go: afterwards a tenant's manifests no longer open, and
    go too. Repeating an erasure is harmless.
    """
    ids = None if pair_id is None else [pair_id]
    used = _corpora_using(workspace, tenant, namespace, ids)
    report = erasure.erase(workspace, tenant, namespace=namespace, pair_ids=ids, now_us=now_us())
    marked = _mark_versions(workspace, tenant, used)
    if namespace is None:
        shutil.rmtree(workspace.home.corpora / tenant, ignore_errors=True)
    return Erased(tenant, namespace, report.rows, marked)


def _corpora_using(
    workspace: Workspace, tenant: str, namespace: str | None, ids: Sequence[str] | None
) -> dict[tuple[str, str], int]:
    """How many erased pairs each corpus held, by (namespace, Merkle root)."""
    used: dict[tuple[str, str], int] = {}
    for name, manifest in _manifests(workspace, tenant, namespace):
        pair_ids = set(manifest.pair_ids)
        gone = len(pair_ids if ids is None else pair_ids.intersection(ids))
        if gone:
            used[(name, manifest.merkle_root)] = gone
    return used


def _manifests(
    workspace: Workspace, tenant: str, namespace: str | None
) -> Iterator[tuple[str, Manifest]]:
    folder = workspace.home.corpora / tenant
    for file in sorted(folder.glob(f"{namespace or '*'}/*.sealed")):
        name = file.parent.name
        try:
            text = workspace.vault.open(
                file.read_bytes(),
                tenant=tenant,
                namespace=name,
                pair_id=file.stem,
                field="manifest",
            )
        except KeyMissing:
            continue  # left by an erasure of the tenant that was cut short; unreadable for good
        yield name, Manifest.from_json(text)


def _mark_versions(
    workspace: Workspace, tenant: str, used: dict[tuple[str, str], int]
) -> tuple[str, ...]:
    if not used:
        return ()
    registry = open_registry(workspace)
    marked = []
    for namespace in sorted({name for name, _ in used}):
        for version in registry.versions(tenant, namespace):
            try:
                verified = verify_file(workspace, registry.fetch(version))
            except ApprenticeError:
                continue  # what does not verify is not served either way
            root = facts_of(verified.receipt, "corpus")["merkle_root"]
            gone = used.get((namespace, root), 0)
            if gone:
                registry.mark_erased(tenant, namespace, version.version, pairs=gone)
                marked.append(f"{tenant}.{namespace}/{version.version}")
    return tuple(marked)
