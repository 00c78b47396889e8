"""From the bytes of a `.kolm`, which anybody may have written, to facts that hold.

Belongs here: the order of the checks, unpacking, comparing. Does not: each check itself.
Promise: nothing inside is interpreted beyond the manifest before the signature of the pinned
key has matched; `verify_kolm` raises or returns what holds, never a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.artifact.adapter_config import check_adapter_config
from apprentice_pipeline.artifact.archive import read_archive
from apprentice_pipeline.artifact.canonical import read_canonical, sha256_hex
from apprentice_pipeline.artifact.evals import holds_text, read_evals, recompute
from apprentice_pipeline.artifact.manifest import Manifest, check_digests, read_manifest
from apprentice_pipeline.artifact.members import (
    ADAPTER_CONFIG,
    BOM,
    CARD,
    EVALS,
    MANIFEST,
    MAX_ARTIFACT_BYTES,
    RECEIPT,
    SIGNATURE,
    WEIGHTS,
)
from apprentice_pipeline.artifact.packing import shipped_bytes
from apprentice_pipeline.artifact.receipt import (
    FORMAT,
    Link,
    carries_macs,
    check_receipt,
    diff_receipts,
    facts_of,
    receipt_head,
)
from apprentice_pipeline.artifact.signing import check_signature, fingerprint
from apprentice_pipeline.artifact.tokenizer_files import check_tokenizer
from apprentice_pipeline.artifact.weights import check_weights
from apprentice_pipeline.errors import ArtifactError

if TYPE_CHECKING:
    from apprentice_pipeline.evaluate.kscore import KScore


@dataclass(frozen=True, slots=True)
class VerifiedArtifact:
    """An artifact whose every check has passed. `digest` is the file's SHA-256."""

    manifest: Manifest
    receipt: tuple[Link, ...]
    evals: dict[str, Any]
    score: KScore
    digest: str
    mac_checked: bool
    signed_by: str
    members: Mapping[str, bytes]

    @property
    def k_recomputed(self) -> float:
        """K as its rows give it."""
        return float(self.score.k)


@dataclass(frozen=True, slots=True)
class _Opened:
    members: dict[str, bytes]
    manifest: Manifest
    digests: dict[str, str]
    digest: str


def verify_kolm(
    source: Path | str | bytes, *, public_key: bytes, secret: bytes | None = None
) -> VerifiedArtifact:
    """Every check there is, against the pinned `public_key` (PEM).

    Raises: ArtifactError with the first failing check: file, manifest, digests, signature,
    receipt (macs too when `secret` is given), adapter, tokenizer, evals and K.
    """
    opened = _open(source)
    check_signature(opened.members, opened.members[SIGNATURE], public_key)
    receipt, mac_checked = _receipt(opened, secret)
    _check_contents(opened)
    evals = read_evals(opened.members[EVALS])
    score = recompute(evals, shipped_bytes(opened.members))
    _check_bindings(opened, receipt, evals, score.to_dict())
    return VerifiedArtifact(
        manifest=opened.manifest,
        receipt=tuple(receipt),
        evals=evals,
        score=score,
        digest=opened.digest,
        mac_checked=mac_checked,
        signed_by=fingerprint(public_key),
        members=opened.members,
    )


def report(verified: VerifiedArtifact) -> dict[str, Any]:
    """What was verified, as plain JSON."""
    return {
        "verified": True,
        "digest": verified.digest,
        "tenant": verified.manifest.tenant,
        "namespace": verified.manifest.namespace,
        "created_at": verified.manifest.created_at,
        "base": verified.manifest.base.model_dump(mode="json"),
        "k_score": verified.k_recomputed,
        "statement": verified.score.statement,
        "receipt_head": verified.manifest.receipt_head,
        "mac": _mac_said(verified),
        "signed_by": verified.signed_by,
        "members": {name: len(data) for name, data in sorted(verified.members.items())},
    }


def _mac_said(verified: VerifiedArtifact) -> str:
    if verified.mac_checked:
        return "checked"
    why = "" if carries_macs(verified.receipt) else ": the receipt carries none"
    return f"MAC not checked{why}"


def inspect(source: Path | str | bytes) -> dict[str, Any]:
    """What an artifact says of itself, its digests and chain intact but its origin unproven.

    Raises: ArtifactError when it is malformed or changed.
    """
    opened = _open(source)
    receipt, _ = _receipt(opened, None)
    evals = read_evals(opened.members[EVALS])
    return {
        "verified": False,
        "signature": "not checked: give the public key to `verify`",
        "digest": opened.digest,
        "manifest": opened.manifest.model_dump(mode="json"),
        "receipt": receipt,
        "score": evals["score"],
        "rows": len(evals["rows"]),
        "rows_hold_text": holds_text(evals),
        "model_card": opened.members[CARD].decode("utf-8", "replace"),
    }


def diff(before: Path | str | bytes, after: Path | str | bytes) -> dict[str, Any]:
    """What changed between two artifacts: receipt facts by link, members, manifest facts.

    Raises: ArtifactError when either is malformed or changed.
    """
    old, new = _open(before), _open(after)
    left, right = old.manifest.model_dump(mode="json"), new.manifest.model_dump(mode="json")
    names = {*old.digests, *new.digests} - {SIGNATURE, MANIFEST}
    return {
        "receipt": diff_receipts(_receipt(old, None)[0], _receipt(new, None)[0]),
        "members": sorted(n for n in names if old.digests.get(n) != new.digests.get(n)),
        "manifest": {
            key: [left[key], right[key]]
            for key in left
            if key not in ("members", "receipt_head") and left[key] != right[key]
        },
    }


def unpack(verified: VerifiedArtifact, folder: Path) -> None:
    """Writes the members into `folder` (made with mode 0700; must be empty or absent).

    Raises: ArtifactError when it is not empty or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise ArtifactError(f"{folder} is not empty", remedy="unpack into a new folder")
        for name, data in verified.members.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True, mode=0o700)
            file.write_bytes(data)
    except OSError as error:
        raise ArtifactError(f"cannot unpack into {folder}: {error.strerror}") from None


def _open(source: Path | str | bytes) -> _Opened:
    data = source if isinstance(source, bytes) else _read(Path(source))
    members = read_archive(data)
    manifest = read_manifest(members[MANIFEST])
    digests = {name: sha256_hex(content) for name, content in members.items()}
    check_digests(manifest, digests, {name: len(content) for name, content in members.items()})
    return _Opened(members, manifest, digests, sha256_hex(data))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_ARTIFACT_BYTES:
            raise ArtifactError(f"{path} has more than {MAX_ARTIFACT_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None


def _receipt(opened: _Opened, secret: bytes | None) -> tuple[list[Link], bool]:
    document = read_canonical(opened.members[RECEIPT], RECEIPT)
    if not isinstance(document, dict) or set(document) != {"format", "links"}:
        raise ArtifactError(f"{RECEIPT} is not a receipt")
    if document["format"] != FORMAT:
        raise ArtifactError(f"{RECEIPT} is of another format than {FORMAT}")
    links: list[Link] = document["links"]
    mac_checked = check_receipt(links, secret)
    if receipt_head(links) != opened.manifest.receipt_head:
        raise ArtifactError("the manifest names another receipt than the artifact carries")
    return links, mac_checked


def _check_contents(opened: _Opened) -> None:
    members = opened.members
    check_adapter_config(members[ADAPTER_CONFIG], opened.manifest.base_name)
    check_weights(members[WEIGHTS])
    check_tokenizer(members)
    bom = read_canonical(members[BOM], BOM)
    if not isinstance(bom, dict) or bom.get("bomFormat") != "CycloneDX":
        raise ArtifactError(f"{BOM} is not a CycloneDX document")
    try:
        members[CARD].decode("utf-8")
    except UnicodeDecodeError:
        raise ArtifactError(f"{CARD} is not UTF-8 text") from None


def _check_bindings(
    opened: _Opened, links: list[Link], evals: Mapping[str, Any], score: Mapping[str, Any]
) -> None:
    """That the receipt tells of these members, and not of another model's."""
    manifest = opened.manifest
    expected = {
        ("holdout", "rows"): len(evals["rows"]),
        ("score", "evals_sha256"): opened.digests[EVALS],
        ("model", "adapter_sha256"): opened.digests[WEIGHTS],
        ("model", "base_name"): manifest.base_name,
        ("model", "base_digest"): manifest.base_digest,
        ("build", "tenant"): manifest.tenant,
        ("build", "namespace"): manifest.namespace,
        ("build", "created_at"): manifest.created_at,
    }
    for (link, fact), value in expected.items():
        if facts_of(links, link).get(fact) != value:
            raise ArtifactError(f"the receipt's link {link} tells of another {fact}")
    stated = facts_of(links, "score").get("k")
    if type(stated) not in (int, float) or abs(stated - score["k"]) > 1e-6:
        raise ArtifactError("the receipt's link score tells of another k")
