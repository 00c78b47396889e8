"""Stage 7: the registry's version, its aliases, and serving that follows the champion alias."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apprentice_pipeline.artifact.kolm import VerifiedArtifact
from apprentice_pipeline.errors import ApprenticeError, ArtifactError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.champion import bring_into_force, policy_of
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.stages.artifact import verify_file
from apprentice_pipeline.stages.calibration import recalibrate_due
from apprentice_pipeline.stages.results import (
    RegisteredModel,
    ScoredAdapter,
    SignedArtifact,
    TrainedAdapter,
    load,
    save,
)
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.registry import ModelVersion, Registry


def registry_uri(settings: Settings) -> str:
    """The MLflow tracking URI: configured, else SQLite under the home."""
    return settings.config.registry.tracking_uri or f"sqlite:///{settings.home.mlflow}/mlflow.db"


def open_registry(workspace: Workspace) -> Registry:
    """The model registry of the workspace."""
    from apprentice_pipeline.registry import Registry

    return Registry.at(workspace.home.mlflow, workspace.config.registry.tracking_uri)


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


def follow_registry(workspace: Workspace) -> None:
    """Lets serving follow every champion alias, and recalibrates the streams that are due.

    What a person moved in MLflow takes effect here. A version that is refused keeps no other
    stream from following; the first refusal is raised once all have been looked at.
    """
    registry = open_registry(workspace)
    known = {(c.tenant, c.namespace) for c in workspace.state.champions()}
    refusals = []
    for tenant, namespace in sorted(known | set(registry.names())):
        try:
            follow(workspace, registry, tenant, namespace)
        except ApprenticeError as error:
            refusals.append(error)
    recalibrate_due(workspace)
    if refusals:
        raise refusals[0]


def follow(workspace: Workspace, registry: Registry, tenant: str, namespace: str) -> None:
    """Makes the stored champion the registry's, if it is another: verified first, then shadow.

    An artifact that does not verify is refused loudly and the version in service stays.
    """
    wanted = registry.champion(tenant, namespace)
    current = workspace.state.champion(tenant, namespace)
    if wanted is None:
        if current is not None:
            _withdraw(workspace, tenant, namespace)
        return
    if current is not None and (current.version, current.digest) == (wanted.version, wanted.digest):
        return
    try:
        path = registry.fetch(wanted)
        verified = verify_file(workspace, path)
        _require_ours(verified, wanted, tenant, namespace)
    except ApprenticeError as error:
        message = f"version {wanted.version}: {error.message}"
        workspace.state.add_alert(tenant, namespace, "champion refused", message, now_us=now_us())
        raise
    _take_over(workspace, wanted, verified, str(path))


def _take_over(
    workspace: Workspace, wanted: ModelVersion, verified: VerifiedArtifact, path: str
) -> None:
    at = now_us()
    tenant, namespace = wanted.tenant, wanted.namespace
    champion = ChampionRecord(
        tenant=tenant,
        namespace=namespace,
        version=wanted.version,
        digest=wanted.digest,
        path=path,
        facts=dict(verified.manifest.facts),
        at_us=at,
    )
    workspace.state.set_champion(tenant, namespace, champion)
    bring_into_force(workspace.state, tenant, namespace, policy_of(workspace.config, namespace), at)


def _withdraw(workspace: Workspace, tenant: str, namespace: str) -> None:
    workspace.state.set_champion(tenant, namespace, None)
    policy = policy_of(workspace.config, namespace)
    bring_into_force(workspace.state, tenant, namespace, policy, now_us())


def _require_ours(
    verified: VerifiedArtifact, wanted: ModelVersion, tenant: str, namespace: str
) -> None:
    manifest = verified.manifest
    if (manifest.tenant, manifest.namespace) != (tenant, namespace):
        raise ArtifactError(
            f"the artifact of version {wanted.version} is for {manifest.tenant}."
            f"{manifest.namespace}, not {tenant}.{namespace}",
            remedy="register it under its own name",
        )
    if verified.digest != wanted.digest:
        raise ArtifactError(
            f"the artifact of version {wanted.version} is not the one that was registered",
            remedy="restore the registry's artifact, or roll back",
        )


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
