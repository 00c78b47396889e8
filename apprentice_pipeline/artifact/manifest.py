"""`manifest.json`: what an artifact says it is.

Belongs here: the closed schema and the base's identity. Does not: proof (receipt, signature).
Promise: whose it is, which base it needs and what every member hashes to, in one small document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apprentice_pipeline.artifact.adapter_config import BASE_NAME, first_fault
from apprentice_pipeline.artifact.canonical import canonical, read_canonical
from apprentice_pipeline.artifact.members import MANIFEST, MEMBERS, UNDIGESTED
from apprentice_pipeline.errors import ArtifactError
from apprentice_pipeline.records import NAME_PATTERN

FORMAT = "kolm-3"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Line = Annotated[str, Field(max_length=2000)]


class BaseIdentity(BaseModel):
    """The model an adapter was grown from: found by `digest`, never by a path."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(max_length=128, pattern=f"^{BASE_NAME}$")]
    digest: Annotated[str, Field(pattern="^(sha256:)?[0-9a-f]{64}$")]
    license: Line = ""
    attribution: Line = ""
    context_tokens: Annotated[int, Field(ge=1)] | None = None


class MemberFact(BaseModel):
    """One member: SHA-256 and size in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: Digest
    size: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """The manifest. `facts` is what a server needs to know about the model, as plain JSON:
    chance, certificate, digests of known system prompts, evaluator and the like."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["kolm-3"]
    tenant: Name
    namespace: Name
    task: Line
    created_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    base: BaseIdentity
    members: dict[str, MemberFact]
    receipt_head: Digest
    facts: dict[str, Any]

    @property
    def base_digest(self) -> str:
        """The digest of the base this adapter belongs to."""
        return self.base.digest

    @property
    def base_name(self) -> str:
        """The name of the base this adapter belongs to."""
        return self.base.name


def manifest_of(document: Mapping[str, Any]) -> Manifest:
    """A checked manifest. Raises: ArtifactError naming the first fault."""
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise ArtifactError(f"{MANIFEST}: {first_fault(error)}") from None


def read_manifest(data: bytes) -> Manifest:
    """The manifest in `data`. Raises: ArtifactError: not canonical JSON, or not the schema."""
    return manifest_of(read_canonical(data, MANIFEST))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as canonical JSON."""
    return canonical(manifest.model_dump())


def check_digests(manifest: Manifest, digests: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """That the manifest names exactly the members there are, with their digests and sizes.

    Raises: ArtifactError naming the first member that differs.
    """
    expected = {name for name in digests if name not in UNDIGESTED}
    for name in sorted(expected ^ set(manifest.members)):
        side = "is not in the manifest" if name in expected else "is in the manifest only"
        shown = name if name in MEMBERS else repr(name[:80])
        raise ArtifactError(f"member {shown} {side}")
    for name in sorted(expected):
        fact = manifest.members[name]
        if (fact.sha256, fact.size) != (digests[name], sizes[name]):
            raise ArtifactError(
                f"member {name} is not the one the manifest names: its digest differs",
                remedy="the file was changed after it was built; fetch or build it again",
            )
