"""Serving follows the registry's champion alias, whoever moved it.

Belongs here: taking the registry's champion over into the state database, verified first, and the
round that a process makes now and then. Does not: moving aliases (`stages.promotion`), the
registry, what a new champion means for the controller (`champion`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apprentice_pipeline.errors import ApprenticeError, ArtifactError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.calibration import recalibrate_due
from apprentice_pipeline.routing.champion import bring_into_force, policy_of
from apprentice_pipeline.serving.champions import trusted_by
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.artifact.kolm import VerifiedArtifact
    from apprentice_pipeline.registry import ModelVersion, Registry


def open_registry(workspace: Workspace) -> Registry:
    """The model registry of the workspace."""
    from apprentice_pipeline.registry import Registry

    return Registry.at(workspace.home.mlflow, workspace.config.registry.tracking_uri)


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
    from apprentice_pipeline.artifact.kolm import verify_kolm

    try:
        path = registry.fetch(wanted)
        verified = verify_kolm(
            path, public_key=trusted_by(workspace), secret=workspace.settings.signing_secret
        )
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
