"""Erasing what a tenant asks for: rows, exports; marking the models; the signed proof.

Belongs here: the order of these steps, the facts of the proof. Does not: removing rows
(`store.erasure`), signing (`artifact.statement`).
Promise: repeating an erasure is harmless; every erasure of a home that can sign leaves its proof
in `erasures/`, with the ids of exactly the pairs whose rows went. What it is to take is noted in
the state database before anything goes, so that the repetition of one that was cut short marks
and proves all of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from apprentice_pipeline.artifact.canonical import canonical, sha256_hex
from apprentice_pipeline.artifact.receipt import facts_of
from apprentice_pipeline.artifact.signing import Signer, load_or_create_signer
from apprentice_pipeline.artifact.statement import signed_statement
from apprentice_pipeline.corpus.manifest import Manifest
from apprentice_pipeline.errors import ApprenticeError, ArtifactError, KeyMissing
from apprentice_pipeline.reading.spools import recoverer
from apprentice_pipeline.records import now_us, rfc3339
from apprentice_pipeline.routing.following import open_registry
from apprentice_pipeline.stages import exported
from apprentice_pipeline.stages.artifact import verify_file
from apprentice_pipeline.stages.exported import RemovedExports
from apprentice_pipeline.stages.results import write_atomically
from apprentice_pipeline.store import erasure
from apprentice_pipeline.store.erasure import ErasureReport
from apprentice_pipeline.store.lake import Removal
from apprentice_pipeline.store.workspace import Workspace

KIND: Final = "apprentice.erasure.v1"


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased: exchanges, exports (paths), and the model versions
    (tenant.namespace/version) marked. `proof` is the signed statement, None where nothing can
    be signed.
    """

    tenant: str
    namespace: str | None
    pairs: int
    marked_versions: tuple[str, ...]
    exports: RemovedExports
    proof: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "tenant": self.tenant,
            "namespace": self.namespace,
            "pairs": self.pairs,
            "marked_versions": list(self.marked_versions),
            "exports_deleted": list(self.exports.deleted),
            "exports_left": list(self.exports.left),
            "proof": self.proof,
        }


def erase(
    workspace: Workspace,
    tenant: str,
    namespace: str | None,
    pair_id: str | None,
    *,
    must_prove: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Erased:
    """Erases a pair, a namespace or a tenant everywhere; its models stay, marked.

    The corpora are read before the rows go: afterwards a tenant's manifests no longer open, and
    go too. Repeating an erasure is harmless. `on_step` is told each step as it is done.
    Raises: ArtifactError, before anything is erased, when `must_prove` and nothing can be signed;
    StoreError, after all else is erased, where a file that was set aside may hold some of it.
    """
    signer = _signer(workspace, must_prove)
    ids = None if pair_id is None else [pair_id]
    scope = (tenant, namespace or "", pair_id or "")
    earlier, begun = _begin(workspace, scope, ids)
    on_step("noted")
    at_us = now_us()
    report = earlier.report + erasure.erase(
        workspace,
        tenant,
        namespace=namespace,
        pair_ids=ids,
        now_us=at_us,
        recover=recoverer(workspace),
        on_step=on_step,
    )
    in_lake = pair_id is None or max(begun.report.lake_rows, report.lake_rows) > 0
    exports = _remove_exports(workspace, scope, begun) if in_lake else RemovedExports()
    on_step("exports-removed")
    used = begun.used
    marked = _mark_versions(workspace, tenant, used)
    on_step("marked")
    if namespace is None:
        shutil.rmtree(workspace.home.corpora / tenant, ignore_errors=True)
    erasure.refuse_what_lies_aside(workspace, tenant, namespace, ids)
    proof = None
    if signer is not None:
        facts = {
            "kind": KIND,
            "erased_at": rfc3339(at_us),
            "scope": {"tenant": tenant, "namespace": namespace, "pair_id": pair_id},
            **_counts(report),
            "data_keys_deleted": namespace is None,
            "corpora": [
                {"namespace": name, "merkle_root": root, "erased_pairs": gone}
                for (name, root), gone in sorted(used.items())
            ],
            "model_versions_marked": list(marked),
            "exports_deleted": sorted(Path(path).name for path in exports.deleted),
            "exports_left": sorted(Path(path).name for path in exports.left),
        }
        proof = signed_statement(facts, signer)
        _keep(workspace, at_us, proof)
    on_step("proven")
    workspace.state.end_erasure(scope)
    return Erased(tenant, namespace, report.rows, marked, exports, proof)


def proof_bytes(proof: dict[str, Any]) -> bytes:
    """A proof as a file holds it: canonical JSON (RFC 8785) and a line feed."""
    return canonical(proof) + b"\n"


def _signer(workspace: Workspace, must_prove: bool) -> Signer | None:
    signing = workspace.config.signing
    try:
        return load_or_create_signer(
            workspace.home.keys, private_key=signing.private_key, public_key=signing.public_key
        )
    except ArtifactError:
        if must_prove:
            raise
        return None


@dataclass(frozen=True, slots=True)
class _Begun:
    """What an erasure found before it took anything: rows, corpora that used the pairs, exports."""

    report: ErasureReport = field(default_factory=lambda: ErasureReport(0, 0))
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    exports: tuple[str, ...] = ()

    def __add__(self, later: _Begun) -> _Begun:
        """One that was cut short, with its repetition."""
        used = dict(self.used)
        for corpus, gone in later.used.items():
            used[corpus] = max(gone, used.get(corpus, 0))
        exports = tuple(sorted({*self.exports, *later.exports}))
        return _Begun(self.report + later.report, used, exports)

    def to_json(self) -> str:
        """As the state database keeps it."""
        tables = [{**asdict(t), "pair_ids": sorted(t.pair_ids)} for t in self.report.tables]
        return json.dumps(
            {
                "report": {**asdict(self.report), "tables": tables},
                "used": [[*corpus, gone] for corpus, gone in self.used.items()],
                "exports": self.exports,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> _Begun:
        """What `to_json` wrote."""
        document = json.loads(text)
        report = document["report"]
        tables = [Removal(**{**t, "pair_ids": frozenset(t["pair_ids"])}) for t in report["tables"]]
        return cls(
            ErasureReport(
                report["spool_rows"],
                report["lake_rows"],
                tuple(report["pair_ids"]),
                tuple(tables),
            ),
            {(name, root): gone for name, root, gone in document["used"]},
            tuple(document["exports"]),
        )


def _begin(
    workspace: Workspace, scope: tuple[str, str, str], ids: Sequence[str] | None
) -> tuple[_Begun, _Begun]:
    """What an erasure of this scope had found that was cut short (nothing when none was), and all
    that this one is to prove, which is noted now."""
    tenant, namespace = scope[0], scope[1] or None
    noted = workspace.state.erasure(scope)
    earlier = _Begun() if noted is None else _Begun.from_json(noted)
    found = erasure.erasable(
        workspace, tenant, namespace=namespace, pair_ids=ids, recover=recoverer(workspace)
    )
    in_lake = ids is None or found.lake_rows > 0
    begun = earlier + _Begun(
        found,
        _corpora_using(workspace, tenant, namespace, ids),
        tuple(exported.known(workspace, tenant, namespace)) if in_lake else (),
    )
    workspace.state.put_erasure(scope, begun.to_json())
    return earlier, begun


def _remove_exports(
    workspace: Workspace, scope: tuple[str, str, str], begun: _Begun
) -> RemovedExports:
    """Those that were there when it began, and those made or begun until the rows were gone."""
    removed = exported.remove(workspace, scope[0], scope[1] or None)
    gone = {path for path in begun.exports if not os.path.lexists(path)}
    return replace(removed, deleted=tuple(sorted({*removed.deleted, *gone})))


def _counts(report: ErasureReport) -> dict[str, Any]:
    return {
        "pair_ids": list(report.pair_ids),
        "rows": {"spool": report.spool_rows, "lake": report.lake_rows},
        "tables": {
            removal.table: {
                "rows": removal.rows,
                "version_before": removal.version_before,
                "version_after": removal.version_after,
            }
            for removal in report.tables
        },
    }


def _keep(workspace: Workspace, at_us: int, proof: dict[str, Any]) -> None:
    data = proof_bytes(proof)
    write_atomically(workspace.home.erasures / f"{at_us}-{sha256_hex(data)[:12]}.json", data)


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
