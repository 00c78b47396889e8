"""A champion's `.kolm` as a backend may use it: verified now, the right one, on its own base.

Belongs here: the checks every backend makes before it loads anything, and finding the base.
Does not: loading. Promise: what `verified_champion` returns has verified against the pinned
public key at this moment, has the digest of the champion record and is for its tenant and
namespace; a base is accepted by its digest only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apprentice_pipeline.errors import BaseModelMissing, ServingError
from apprentice_pipeline.serving.waiting import AdapterKey
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.artifact.kolm import Manifest, VerifiedArtifact


@dataclass(frozen=True, slots=True)
class Wanted:
    """The champion to load: whose it is, and the digest its `.kolm` must have."""

    tenant: str
    namespace: str
    version: int
    digest: str
    path: str

    @classmethod
    def of(cls, champion: ChampionRecord) -> Wanted:
        """What a champion record asks for."""
        return cls(
            champion.tenant,
            champion.namespace,
            champion.version,
            champion.digest,
            champion.path,
        )

    @property
    def key(self) -> AdapterKey:
        """Tenant, namespace, version."""
        return self.tenant, self.namespace, self.version

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"version {self.version} of {self.tenant}.{self.namespace}"


def adapter_name(tenant: str, namespace: str, version: int) -> str:
    """What an adapter is called inside a server that knows it by name."""
    return f"apprentice-{tenant}.{namespace}-v{version}"


def verified_champion(wanted: Wanted, public_key: bytes) -> VerifiedArtifact:
    """The artifact, verified.

    Raises: ArtifactError when it does not verify; ServingError when it is another one than the
    record names, or somebody else's.
    """
    from apprentice_pipeline.artifact.kolm import verify_kolm

    verified = verify_kolm(Path(wanted.path), public_key=public_key)
    if verified.digest != wanted.digest:
        raise ServingError(
            f"{wanted.title} has digest {verified.digest[:12]},"
            f" the champion record says {wanted.digest[:12]}",
            remedy="promote the version again, or roll back",
        )
    owner = (verified.manifest.tenant, verified.manifest.namespace)
    if owner != (wanted.tenant, wanted.namespace):
        raise ServingError(f"the artifact of {wanted.title} is for {owner[0]}.{owner[1]}")
    return verified


def trusted_by(workspace: Workspace) -> bytes:
    """The public key (PEM) this workspace pins. Raises: ArtifactError when there is none."""
    from apprentice_pipeline.artifact.kolm import trusted_key

    pinned = workspace.config.signing.public_key
    return trusted_key(workspace.home.keys, public_key=pinned)


def base_of(manifest: Manifest, configured: str, model_dir: str = "") -> Path:
    """The folder of the base an artifact was grown from: the configured one, else by its name.

    Names are looked for in `model_dir` too.

    Raises: ServingError when neither has the digest that the manifest names.
    """
    from apprentice_pipeline.distill.base_model import resolve_base

    for name in dict.fromkeys((configured, manifest.base_name)):
        try:
            base = resolve_base(name, model_dir or None)
        except BaseModelMissing:
            continue
        if base.digest == manifest.base_digest:
            return base.path
    raise ServingError(
        f"the artifact was trained on another base than this machine has ({manifest.base_name})",
        remedy="set local.base_model to the artifact's base, or distill again",
    )
