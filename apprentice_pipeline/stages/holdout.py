"""Stage 3: the corpus frozen under one root, its manifest sealed; and the same corpus rebuilt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from apprentice_pipeline.corpus.building import Rebuilt, build_corpus, rebuild_corpus
from apprentice_pipeline.corpus.manifest import Manifest
from apprentice_pipeline.corpus.rows import Corpus
from apprentice_pipeline.errors import CorpusError
from apprentice_pipeline.records import now_us
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
        split_key=workspace.vault.fingerprint(tenant, "split", namespace.encode()),
        row_key=row_key(workspace, tenant, namespace),
        created_us=now_us(),
        evaluator=evaluator_of(workspace, namespace, [pair.output for pair in found[:200]]),
        max_disagreeing_inputs=config.distill.max_disagreeing_inputs,
        min_train=config.first_training_needs(namespace),
        min_holdout=config.kscore.min_holdout,
        seed=config.distill.seed,
    )
    record = _record(corpus, _manifest_file(workspace, tenant, namespace, corpus.manifest))
    sealed = workspace.vault.seal(
        corpus.manifest.to_json(),
        tenant=tenant,
        namespace=namespace,
        pair_id=record.root,
        field="manifest",
    )
    write_atomically(Path(record.path), sealed)
    save(workspace, tenant, namespace, record)
    return record


def reload(workspace: Workspace, tenant: str, namespace: str, frozen: FrozenCorpus) -> Rebuilt:
    """The frozen corpus again, opened in memory from the lake by the ids of its manifest.

    Raises: CorpusError when the manifest is missing or is not the frozen one.
    """
    try:
        sealed = Path(frozen.path).read_bytes()
    except OSError as error:
        raise CorpusError(
            f"the manifest of corpus {frozen.root[:12]} cannot be read: {error.strerror}",
            remedy="freeze the corpus again: materialize holdout_split",
        ) from None
    text = workspace.vault.open(
        sealed, tenant=tenant, namespace=namespace, pair_id=frozen.root, field="manifest"
    )
    manifest = Manifest.from_json(text)
    found = pairs(workspace, tenant, namespace, ids=list(manifest.pair_ids))
    return rebuild_corpus(manifest, found, row_key=row_key(workspace, tenant, namespace))


def row_key(workspace: Workspace, tenant: str, namespace: str) -> bytes:
    """The key of a stream's row hashes."""
    return workspace.vault.fingerprint(tenant, "row", namespace.encode())


def _record(corpus: Corpus, file: Path) -> FrozenCorpus:
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
        leaked=0,
        at_us=corpus.manifest.created_us,
    )


def _manifest_file(workspace: Workspace, tenant: str, namespace: str, manifest: Manifest) -> Path:
    return workspace.home.corpora / tenant / namespace / f"{manifest.merkle_root}.sealed"
