"""What each asset shows in the UI: counts, a table, a plot; and the asset checks' words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from apprentice_pipeline.orchestration import plots

if TYPE_CHECKING:
    from apprentice_pipeline.artifact.kolm import VerifiedArtifact
    from apprentice_pipeline.config import Distill
    from apprentice_pipeline.registry import ModelVersion
    from apprentice_pipeline.stages import results
    from apprentice_pipeline.stages.capture import Collected
    from apprentice_pipeline.stages.verification import Verified

Metadata = dict[str, Any]


def of_captures(collected: Collected) -> Metadata:
    """Exchanges, pairs and cost of a day; a table by model; pairs by hour."""
    return {
        "dagster/row_count": collected.exchanges,
        "pairs": collected.pairs,
        "drained_now": collected.drained,
        "by_model": _table(
            ["model", "pairs", "cost_usd"],
            [(model, pairs, round(cost, 6)) for model, pairs, cost in collected.by_model],
        ),
        "by_hour": dg.MetadataValue.md(
            plots.bars(
                [(f"{hour:02d}", pairs) for hour, pairs in collected.by_hour],
                title="pairs by hour (UTC)",
                x="hour",
                y="pairs",
            )
        ),
    }


def of_verdicts(verified: Verified) -> Metadata:
    """Verdict counts, resampling and the label noise it estimates, with its interval."""
    found = verified.summary
    counts = [("verified", found.verified), ("quarantined", found.quarantined)]
    return {
        "dagster/row_count": found.pairs,
        "resampled": found.resampled,
        "failed_resamples": found.failed_resamples,
        "label_noise": verified.label_noise_text,
        "reasons": _table(["reason", "pairs"], sorted(verified.reasons.items())),
        "verdicts": dg.MetadataValue.md(plots.bars(counts, title="verdicts", x="", y="pairs")),
    }


def of_corpus(frozen: results.FrozenCorpus) -> Metadata:
    """Both sides' sizes, what was left out and why, and the slices."""
    slices = sorted(frozen.slices.items(), key=lambda item: -item[1])[:20]
    return {
        "dagster/row_count": frozen.train + frozen.holdout,
        "train": frozen.train,
        "holdout": frozen.holdout,
        "merkle_root": frozen.root,
        "disagreeing_share": frozen.disagreeing_share,
        "left_out": _table(["why", "pairs"], sorted(frozen.excluded.items())),
        "sides": dg.MetadataValue.md(
            plots.bars(
                [("train", frozen.train), ("holdout", frozen.holdout)],
                title="corpus",
                x="",
                y="rows",
            )
        ),
        "slices": _table(["slice (keyed)", "holdout rows"], slices),
    }


def corpus_checks(frozen: results.FrozenCorpus, limits: Distill) -> Sequence[dg.AssetCheckResult]:
    """No leakage between the sides; answers coherent enough to be learnt; each as measured."""
    return [
        dg.AssetCheckResult(
            check_name="no_leakage",
            passed=frozen.leaked == 0,
            metadata={
                "inputs_on_both_sides": frozen.leaked,
                "rows_compared": frozen.train + frozen.holdout,
            },
        ),
        dg.AssetCheckResult(
            check_name="coherence",
            passed=frozen.disagreeing_share <= limits.max_disagreeing_inputs,
            metadata={
                "disagreeing_inputs": frozen.disagreeing_inputs,
                "inputs": frozen.inputs,
                "disagreeing_share": frozen.disagreeing_share,
                "limit": limits.max_disagreeing_inputs,
            },
        ),
    ]


def of_adapter(trained: results.TrainedAdapter) -> Metadata:
    """Rows, speed, hyper-parameters and the loss curve."""
    return {
        "dagster/row_count": trained.rows,
        "base": trained.base_name,
        "seconds": round(trained.seconds, 1),
        "examples_per_second": round(trained.examples_per_second, 1),
        "trainable_parameters": trained.trainable_parameters,
        "settings": _table(["setting", "value"], sorted(_text(trained.settings).items())),
        "loss": dg.MetadataValue.md(
            plots.line(trained.loss_curve, title="training loss", x="step", y="loss")
        ),
    }


def of_score(scored: results.ScoredAdapter) -> Metadata:
    """K, its interval and components, the fidelity statement, the certificate."""
    parts = [(k, v) for k, v in scored.score["components"].items() if v is not None]
    return {
        "dagster/row_count": len(scored.rows),
        "k_score": scored.score["k"],
        "k_low": scored.score["low"],
        "k_high": scored.score["high"],
        "fidelity": scored.score["fidelity"],
        "statement": scored.score["statement"],
        "chance": scored.chance,
        "certificate": dg.MetadataValue.json(scored.certificate or {"tau": None}),
        "components": dg.MetadataValue.md(
            plots.bars(parts, title="K-score components", x="", y="value")
        ),
        "table": _table(["component", "value"], [(k, round(v, 4)) for k, v in parts]),
    }


def gate_check(scored: results.ScoredAdapter) -> dg.AssetCheckResult:
    """The gate's decision; the failing conditions and the remedy where it refuses."""
    return dg.AssetCheckResult(
        check_name="kscore_gate",
        passed=scored.passed,
        description="; ".join(scored.failures) or "every condition holds",
        metadata={"k": scored.score["k"], "remedy": scored.remedy or "none needed"},
    )


def of_artifact(signed: results.SignedArtifact, verified: VerifiedArtifact) -> Metadata:
    """Path, digest, size and receipt head; every member with its digest and size."""
    members = sorted(verified.manifest.members.items())
    sizes = [(name.rpartition("/")[2], fact.size / 1_000) for name, fact in members]
    return {
        "path": dg.MetadataValue.path(signed.path),
        "digest": signed.digest,
        "size_bytes": signed.size_bytes,
        "k_score": signed.k,
        "receipt_head": signed.receipt_head,
        "corpus_root": signed.corpus_root,
        "members": _table(
            ["member", "sha256", "bytes"],
            [(name, fact.sha256, str(fact.size)) for name, fact in members],
        ),
        "sizes": dg.MetadataValue.md(plots.bars(sizes, title="members", x="", y="kB")),
    }


def signature_check(
    signed: results.SignedArtifact, verified: VerifiedArtifact
) -> dg.AssetCheckResult:
    """The file on disk, read again, verifies against the pinned key."""
    return dg.AssetCheckResult(
        check_name="signature_verifies",
        passed=verified.digest == signed.digest,
        metadata={"mac_checked": verified.mac_checked, "digest": verified.digest},
    )


def of_model(registered: results.RegisteredModel, versions: Sequence[ModelVersion]) -> Metadata:
    """The registered model's name, version and alias; every version with its K and aliases."""
    oldest_first = sorted(versions, key=lambda each: each.version)
    return {
        "model": registered.model,
        "version": registered.version,
        "alias": registered.alias,
        "digest": registered.digest,
        "path": dg.MetadataValue.path(registered.path),
        "versions": _table(
            ["version", "k_score", "aliases", "digest"],
            [
                (str(v.version), round(v.k, 4), ", ".join(v.aliases) or "—", v.digest)
                for v in reversed(oldest_first)
            ],
        ),
        "k_by_version": dg.MetadataValue.md(
            plots.bars(
                [(str(v.version), v.k) for v in oldest_first],
                title="K-score by version",
                x="version",
                y="K",
            )
        ),
    }


def of_reevaluation(done: results.Reevaluated) -> Metadata:
    """What a re-evaluation found of the champion, and what it had to reach."""
    return {
        "confirmed": done.confirmed,
        "correlation": done.kappa,
        "needed": done.needed,
        "fresh_rows": done.rows,
        "digest": done.digest,
    }


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> dg.TableMetadataValue:
    records = [dg.TableRecord(dict(zip(headings, row, strict=True))) for row in rows]
    kinds = {
        heading: "float" if records and isinstance(rows[0][i], float) else "string"
        for i, heading in enumerate(headings)
    }
    schema = dg.TableSchema(columns=[dg.TableColumn(h, kinds[h]) for h in headings])
    return dg.MetadataValue.table(records=records, schema=schema)


def _text(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in settings.items()}
