"""Stage 6: the signed `.kolm` of the newest scored adapter; and reading one back, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apprentice_pipeline.artifact.kolm import (
    BaseIdentity,
    CardFacts,
    KolmContents,
    VerifiedArtifact,
    evals_document,
    load_or_create_signer,
    pack,
    read_adapter,
    read_tokenizer,
    row_text,
    trusted_key,
    verify_kolm,
    write_kolm,
)
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.corpus.rows import Corpus
from apprentice_pipeline.errors import DistillError
from apprentice_pipeline.evaluate.kscore import EvalRow, KScore, ScoreInputs
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.champion import ServingFacts, keyed_prompt_digest
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.stages import holdout
from apprentice_pipeline.stages.results import (
    FrozenCorpus,
    ScoredAdapter,
    SignedArtifact,
    TrainedAdapter,
    load,
    save,
)
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.answers import shape_of


def pack_and_sign(workspace: Workspace, tenant: str, namespace: str) -> SignedArtifact:
    """Packs what the stages before measured, signs it, writes it whole.

    Raises: GateRefused when the newest score did not pass; DistillError when corpus, adapter and
    score are not of one run; ArtifactError, StorageFull.
    """
    frozen = load(workspace, tenant, namespace, FrozenCorpus)
    trained = load(workspace, tenant, namespace, TrainedAdapter)
    scored = load(workspace, tenant, namespace, ScoredAdapter)
    if scored.adapter_folder != trained.folder or not (
        scored.corpus_root == trained.corpus_root == frozen.root
    ):
        raise DistillError(
            f"the newest corpus, adapter and score of {tenant}.{namespace} do not belong together",
            remedy=f"make them anew: apprentice distill --namespace {namespace}",
        )
    if not scored.passed:
        from apprentice_pipeline.stages.score import refusal

        raise refusal(scored)
    corpus = holdout.reload(workspace, tenant, namespace, frozen).corpus
    at = now_us()
    contents = KolmContents(
        tenant=tenant,
        namespace=namespace,
        task=_description(workspace, namespace),
        created_at_us=at,
        base=BaseIdentity(
            name=trained.base_name,
            digest=trained.base_digest,
            license=trained.base_license,
            context_tokens=trained.context_tokens,
        ),
        adapter=read_adapter(Path(trained.folder)),
        tokenizer=read_tokenizer(Path(trained.base_path)),
        links=_links(workspace, frozen, trained, scored, corpus),
        evals=_evals(workspace, scored, corpus),
        card=_card(workspace, namespace, frozen, corpus),
        facts=serving_facts(workspace, tenant, trained, scored, corpus).to_plain(),
    )
    settings = workspace.settings
    signing = settings.config.signing
    signer = load_or_create_signer(
        workspace.home.keys, private_key=signing.private_key, public_key=signing.public_key
    )
    data = pack(contents, signer, secret=settings.signing_secret)
    verified = verify_kolm(data, public_key=signer.public_key, secret=settings.signing_secret)
    file = (
        workspace.home.artifacts / tenant / namespace / f"{namespace}-{verified.digest[:12]}.kolm"
    )
    write_kolm(file, data)
    record = SignedArtifact(
        path=str(file),
        digest=verified.digest,
        size_bytes=len(data),
        k=verified.score.k,
        receipt_head=verified.manifest.receipt_head,
        corpus_root=frozen.root,
        at_us=at,
    )
    save(workspace, tenant, namespace, record)
    return record


def verify_file(workspace: Workspace, path: str | Path) -> VerifiedArtifact:
    """The artifact at `path`, verified against this home's pinned key. Raises: ArtifactError."""
    return verify_with(workspace.settings, Path(path), None)


def verify_with(settings: Settings, path: Path, public_key: Path | None) -> VerifiedArtifact:
    """Verified against `public_key`, else the pinned one. Raises: ArtifactError."""
    pinned = str(public_key) if public_key else settings.config.signing.public_key
    key = trusted_key(settings.home.keys, public_key=pinned)
    return verify_kolm(path, public_key=key, secret=settings.signing_secret)


def champion_artifact(workspace: Workspace, tenant: str, namespace: str) -> VerifiedArtifact | None:
    """The artifact in service, verified; None when there is none."""
    champion = workspace.state.champion(tenant, namespace)
    return None if champion is None else verify_file(workspace, champion.path)


def serving_facts(
    workspace: Workspace,
    tenant: str,
    trained: TrainedAdapter,
    scored: ScoredAdapter,
    corpus: Corpus,
) -> ServingFacts:
    """What a server must know of the model; digests of system prompts are keyed."""
    digests = {keyed_prompt_digest(workspace.vault, tenant, d) for d in corpus.system_digests}
    certificate = scored.certificate
    return ServingFacts(
        chance=scored.chance,
        certificate=Certificate.from_plain(certificate) if certificate else None,
        system_prompt_digests=frozenset(digests),
        context_tokens=trained.context_tokens,
        evaluator=scored.evaluator,
        shape=shape_of([row.completion for row in corpus.train]),
        calibration_rows=sum(1 for row in scored.rows if row["verified"]),
        remote_cost_usd=scored.inputs["remote_cost_usd"],
    )


def _description(workspace: Workspace, namespace: str) -> str:
    task = workspace.config.task(namespace)
    return (task.description if task else "") or namespace


def _evals(workspace: Workspace, scored: ScoredAdapter, corpus: Corpus) -> dict[str, Any]:
    """What was measured; with the text of the rows that still exist, where that is configured."""
    shown = corpus.holdout if workspace.config.kscore.include_text else ()
    return evals_document(
        [EvalRow.from_dict(row) for row in scored.rows],
        ScoreInputs.from_dict(scored.inputs),
        KScore.from_dict(scored.score),
        {row.row_hash: row_text(row.messages, row.completion) for row in shown},
    )


def _links(
    workspace: Workspace,
    frozen: FrozenCorpus,
    trained: TrainedAdapter,
    scored: ScoredAdapter,
    corpus: Corpus,
) -> dict[str, dict[str, Any]]:
    """The six links' facts; `pack` adds the digests that bind them to the members."""
    verify = workspace.config.verify
    return {
        "corpus": {
            "merkle_root": frozen.root,
            "train": frozen.train,
            "holdout": frozen.holdout,
            "left_out": frozen.excluded,
        },
        "verifier": {
            "method": "k-sample self-consistency",
            "fraction": verify.fraction,
            "k": verify.k,
            "floor": verify.floor,
            "verdicts": dict(corpus.manifest.verdicts),
        },
        "holdout": {
            "merkle_root": corpus.manifest.side_root("holdout"),
            "fraction": workspace.config.distill.holdout_fraction,
        },
        "score": {
            "fidelity": scored.score["fidelity"],
            "evaluator": scored.evaluator,
            "gate": workspace.config.kscore.gate,
        },
        "model": {"settings": trained.settings, "rows": trained.rows},
        "build": {"corpus_at_us": frozen.at_us, "trained_at_us": trained.at_us},
    }


def _card(workspace: Workspace, namespace: str, frozen: FrozenCorpus, corpus: Corpus) -> CardFacts:
    rows = [*corpus.train, *corpus.holdout]
    return CardFacts(
        description=_description(workspace, namespace),
        provenance={
            "train pairs": frozen.train,
            "holdout pairs": frozen.holdout,
            "resampled": sum(row.confidence is not None for row in rows),
            **{f"left out, {name}": count for name, count in frozen.excluded.items()},
        },
    )
