"""Stage 3: the corpus frozen under one root, its manifest sealed; and the same corpus rebuilt."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from apprentice_pipeline.corpus.building import (
    Divided,
    Rebuilt,
    build_corpus,
    divide,
    rebuild_corpus,
    shared_inputs,
)
from apprentice_pipeline.corpus.manifest import Manifest
from apprentice_pipeline.corpus.rows import Corpus, CorpusRow
from apprentice_pipeline.errors import CorpusError, Incoherent
from apprentice_pipeline.records import Pair, now_us
from apprentice_pipeline.stages.consent import require_consent
from apprentice_pipeline.stages.judging import evaluator_of
from apprentice_pipeline.stages.results import FrozenCorpus, save, write_atomically
from apprentice_pipeline.store.pairs import pairs
from apprentice_pipeline.store.workspace import Workspace


def freeze(workspace: Workspace, tenant: str, namespace: str) -> FrozenCorpus:
    """Deduplicates, splits and freezes every verified pair of the stream.

    Raises: ConsentWithheld; TooFewPairs, Incoherent, Leakage, each with the counts; nothing is
    written then.
    """
    config = workspace.config
    require_consent(config, namespace)
    found = list(pairs(workspace, tenant, namespace))
    corpus = build_corpus(
        found,
        tenant=tenant,
        namespace=namespace,
        holdout_fraction=config.distill.holdout_fraction,
        split_key=split_key(workspace, tenant, namespace),
        row_key=row_key(workspace, tenant, namespace),
        created_us=now_us(),
        evaluator=evaluator_of(workspace, namespace, [pair.output for pair in found[:200]]),
        max_disagreeing_inputs=config.distill.max_disagreeing_inputs,
        min_train=config.first_training_needs(namespace),
        min_holdout=config.kscore.min_holdout,
        seed=config.distill.seed,
    )
    frozen = _write_manifest(workspace, corpus.manifest)
    manifest = _read_manifest(workspace, tenant, namespace, corpus.manifest.merkle_root, frozen)
    leaked = shared_inputs(manifest, {pair.pair_id: pair.dedup_key for pair in found})
    record = _record(corpus, frozen, leaked)
    save(workspace, tenant, namespace, record)
    return record


def count_sides(
    workspace: Workspace, tenant: str, namespace: str, *, once_verified: bool = False
) -> tuple[int, int] | None:
    """Train rows and verified holdout rows that `freeze` would have now, every input opened.

    `once_verified` takes pairs without a verdict as if it were going to be a good one. None where
    the answers contradict each other too often: `freeze` says that better.
    """
    verdicts = ("verified", "approved", *(("unverified",) if once_verified else ()))
    found = [
        replace(pair, verdict="verified") if pair.verdict == "unverified" else pair
        for pair in pairs(workspace, tenant, namespace, verdicts=verdicts)
    ]
    most = workspace.config.distill.max_disagreeing_inputs
    try:
        return _divided(workspace, tenant, namespace, found, most).counts
    except Incoherent:
        return None


def holdout_since(
    workspace: Workspace, tenant: str, namespace: str, since_us: int
) -> list[CorpusRow]:
    """Rows on the holdout's side that came since then, oldest first: no model learns from them.

    Those that a verifier or a person found wanting are left out, and inputs whose answers
    contradict each other.
    """
    verdicts = ("verified", "approved", "unverified")
    found = list(pairs(workspace, tenant, namespace, since_us=since_us, verdicts=verdicts))
    return list(_divided(workspace, tenant, namespace, found, 1.0).holdout)


def _divided(
    workspace: Workspace, tenant: str, namespace: str, found: list[Pair], most: float
) -> Divided:
    """`most`: the share of inputs that may contradict themselves."""
    return divide(
        found,
        evaluator=evaluator_of(workspace, namespace, [pair.output for pair in found[:200]]),
        holdout_fraction=workspace.config.distill.holdout_fraction,
        split_key=split_key(workspace, tenant, namespace),
        row_key=row_key(workspace, tenant, namespace),
        max_disagreeing_inputs=most,
    )


def reload(workspace: Workspace, tenant: str, namespace: str, frozen: FrozenCorpus) -> Rebuilt:
    """The frozen corpus again, opened in memory from the lake by the ids of its manifest.

    Raises: ConsentWithheld; CorpusError when the manifest is missing or is not the frozen one.
    """
    require_consent(workspace.config, namespace)
    manifest = _read_manifest(workspace, tenant, namespace, frozen.root, Path(frozen.path))
    found = pairs(workspace, tenant, namespace, ids=list(manifest.pair_ids))
    return rebuild_corpus(manifest, found, row_key=row_key(workspace, tenant, namespace))


def split_key(workspace: Workspace, tenant: str, namespace: str) -> bytes:
    """The key of a stream's split: it decides for good which side an input is on."""
    return workspace.vault.fingerprint(tenant, "split", namespace.encode())


def row_key(workspace: Workspace, tenant: str, namespace: str) -> bytes:
    """The key of a stream's row hashes."""
    return workspace.vault.fingerprint(tenant, "row", namespace.encode())


def _record(corpus: Corpus, file: Path, leaked: int) -> FrozenCorpus:
    report = corpus.report.to_dict()
    left_out = ("duplicates", "disagreeing", "unsupported", "rejected", "untrusted")
    return FrozenCorpus(
        root=corpus.manifest.merkle_root,
        path=str(file),
        train=len(corpus.train),
        holdout=len(corpus.holdout),
        excluded={name: report[name] for name in left_out},
        slices=dict(Counter(row.slice for row in corpus.holdout if row.slice)),
        disagreeing_share=report["disagreeing_inputs"] / max(1, report["inputs"]),
        leaked=leaked,
        at_us=corpus.manifest.created_us,
        inputs=report["inputs"],
        disagreeing_inputs=report["disagreeing_inputs"],
    )


def _write_manifest(workspace: Workspace, manifest: Manifest) -> Path:
    """Seals the manifest into its file. Raises: StoreError, StorageFull."""
    root, tenant, namespace = manifest.merkle_root, manifest.tenant, manifest.namespace
    file = workspace.home.corpora / tenant / namespace / f"{root}.sealed"
    sealed = workspace.vault.seal(
        manifest.to_json(), tenant=tenant, namespace=namespace, pair_id=root, field="manifest"
    )
    write_atomically(file, sealed)
    return file


def _read_manifest(
    workspace: Workspace, tenant: str, namespace: str, root: str, file: Path
) -> Manifest:
    """Raises: CorpusError when it is missing or is not the frozen one."""
    try:
        sealed = file.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"the manifest of corpus {root[:12]} cannot be read: {error.strerror}",
            remedy="freeze the corpus again: materialize holdout_split",
        ) from None
    text = workspace.vault.open(
        sealed, tenant=tenant, namespace=namespace, pair_id=root, field="manifest"
    )
    return Manifest.from_json(text)
