"""Stage 7: the registry's version and its aliases; serving follows (`routing.following`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.following import follow, open_registry
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.stages.artifact import verify_file
from apprentice_pipeline.stages.results import (
    RegisteredModel,
    ScoredAdapter,
    SignedArtifact,
    TrainedAdapter,
    load,
    save,
)
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.registry import ModelVersion, Registry


def registry_uri(settings: Settings) -> str:
    """The MLflow tracking URI: configured, else SQLite under the home."""
    return settings.config.registry.tracking_uri or f"sqlite:///{settings.home.mlflow}/mlflow.db"


def register(
    workspace: Workspace, registry: Registry, tenant: str, namespace: str
) -> RegisteredModel:
    """Registers the newest signed artifact as challenger; promotes it unless review is asked for.

    Idempotent: the same artifact is one version.
    """
    signed = load(workspace, tenant, namespace, SignedArtifact)
    trained = load(workspace, tenant, namespace, TrainedAdapter)
    scored = load(workspace, tenant, namespace, ScoredAdapter)
    verify_file(workspace, signed.path)
    version = registry.register(
        tenant=tenant,
        namespace=namespace,
        kolm=Path(signed.path),
        digest=signed.digest,
        k=signed.k,
        receipt_head=signed.receipt_head,
        metrics=_metrics(trained, scored),
        params={**{k: str(v) for k, v in trained.settings.items()}, "base": trained.base_name},
        loss_curve=trained.loss_curve,
        created_at_us=signed.at_us,
    )
    alias = "challenger"
    if workspace.config.serving.promotion == "auto":
        registry.promote(tenant, namespace, version)
        alias = "champion"
        follow(workspace, registry, tenant, namespace)
    record = RegisteredModel(
        model=f"{tenant}.{namespace}",
        version=version,
        alias=alias,
        digest=signed.digest,
        path=signed.path,
        at_us=now_us(),
    )
    save(workspace, tenant, namespace, record)
    return record


def promote(workspace: Workspace, tenant: str, namespace: str, version: int | None) -> ModelVersion:
    """Moves the champion alias to `version` (the newest challenger) and lets serving follow."""
    registry = open_registry(workspace)
    moved = registry.promote(tenant, namespace, version)
    follow(workspace, registry, tenant, namespace)
    return moved


def rollback(
    workspace: Workspace, tenant: str, namespace: str, version: int | None
) -> ModelVersion:
    """Moves the champion alias back to an older version and lets serving follow."""
    registry = open_registry(workspace)
    moved = registry.rollback(tenant, namespace, version)
    follow(workspace, registry, tenant, namespace)
    return moved


def _metrics(trained: TrainedAdapter, scored: ScoredAdapter) -> dict[str, float]:
    score = scored.score
    metrics = {
        "k_score": score["k"],
        "k_low": score["low"],
        "k_high": score["high"],
        "fidelity": score["fidelity"],
        "fidelity_low": score["fidelity_low"],
        "fidelity_high": score["fidelity_high"],
        "chance": scored.chance,
        "train_rows": float(trained.rows),
        "holdout_rows": float(len(scored.rows)),
        "train_seconds": trained.seconds,
    }
    parts = {f"component_{k}": v for k, v in score["components"].items() if v is not None}
    return {**metrics, **parts}
