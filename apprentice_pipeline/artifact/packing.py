"""From the facts of one distillation to the bytes of a `.kolm`.

Belongs here: assembling members, binding the receipt to them, writing the file. Does not:
measuring, training, any clock. Promise: `pack` is pure; the same contents give the same bytes
but for `model.sig`; what it builds has passed the checks that a reader will make.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apprentice_pipeline import __version__
from apprentice_pipeline.artifact.adapter_config import check_adapter_config, normal_adapter_config
from apprentice_pipeline.artifact.archive import write_archive
from apprentice_pipeline.artifact.bom import bill_of_materials
from apprentice_pipeline.artifact.canonical import canonical, sha256_hex
from apprentice_pipeline.artifact.evals import evals_bytes, read_evals, recompute
from apprentice_pipeline.artifact.manifest import (
    FORMAT,
    BaseIdentity,
    Manifest,
    manifest_bytes,
    manifest_of,
)
from apprentice_pipeline.artifact.members import (
    ADAPTER_CONFIG,
    BOM,
    CARD,
    EVALS,
    MANIFEST,
    MEMBERS,
    RECEIPT,
    SIGNATURE,
    WEIGHTS,
)
from apprentice_pipeline.artifact.model_card import CardFacts, render_card
from apprentice_pipeline.artifact.receipt import (
    FORMAT as RECEIPT_FORMAT,
)
from apprentice_pipeline.artifact.receipt import (
    LINKS,
    Link,
    build_receipt,
    receipt_head,
)
from apprentice_pipeline.artifact.signing import Signer, sign
from apprentice_pipeline.artifact.tokenizer_files import check_tokenizer
from apprentice_pipeline.artifact.weights import check_weights, parameter_count
from apprentice_pipeline.errors import ArtifactError, StorageFull
from apprentice_pipeline.records import rfc3339


@dataclass(frozen=True, slots=True)
class KolmContents:
    """Everything an artifact is made of; times and measurements are inputs.

    `adapter` and `tokenizer` are files by their name in the artifact (`read_adapter`,
    `tokenizer_files.read_tokenizer`); `links` are the receipt's facts by link name, to which
    `pack` adds the digests that bind them to the members; `evals` is `evals.evals_document(…)`;
    `facts` go into the manifest as they are.
    """

    tenant: str
    namespace: str
    task: str
    created_at_us: int
    base: BaseIdentity
    adapter: Mapping[str, bytes]
    tokenizer: Mapping[str, bytes]
    links: Mapping[str, Mapping[str, Any]]
    evals: Mapping[str, Any]
    card: CardFacts = field(default_factory=CardFacts)
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_adapter(folder: Path) -> dict[str, bytes]:
    """The adapter's two members from the folder it was trained into; other files stay behind.

    Raises: ArtifactError when one is missing.
    """
    members = {}
    for name in (WEIGHTS, ADAPTER_CONFIG):
        try:
            members[name] = (folder / Path(name).name).read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"the adapter has no {Path(name).name}: {error.strerror}",
                remedy="train the adapter again",
            ) from None
    return members


def pack(contents: KolmContents, signer: Signer, *, secret: bytes | None = None) -> bytes:
    """The bytes of the artifact; `secret` keys the receipt's macs.

    Raises: ArtifactError when a part would not pass verification.
    """
    members = _model_members(contents)
    members[EVALS] = evals_bytes(contents.evals)
    score = recompute(read_evals(members[EVALS]), shipped_bytes(members)).to_dict()
    chain = build_receipt(_bound_links(contents, members, score), secret=secret)
    members[RECEIPT] = canonical({"format": RECEIPT_FORMAT, "links": chain})
    created_at = rfc3339(contents.created_at_us)
    members[CARD] = render_card(
        tenant=contents.tenant,
        namespace=contents.namespace,
        created_at=created_at,
        base=contents.base,
        facts=contents.card,
        score=score,
    )
    members[BOM] = _bom(contents, members, score, created_at)
    members[MANIFEST] = manifest_bytes(_manifest(contents, members, chain, created_at))
    _check_sizes(members)
    members[SIGNATURE] = sign(members, signer)
    return write_archive(members)


def shipped_bytes(members: Mapping[str, bytes]) -> int:
    """What adapter and tokenizer weigh: the size a footprint is at least to be scored by."""
    parts = ("adapter/", "tokenizer/")
    return sum(len(data) for name, data in members.items() if name.startswith(parts))


def model_size_bytes(
    adapter: Mapping[str, bytes], tokenizer: Mapping[str, bytes], base_name: str
) -> int:
    """`shipped_bytes` of an artifact that is yet to be packed from these files."""
    config = normal_adapter_config(adapter[ADAPTER_CONFIG], base_name)
    return shipped_bytes({**adapter, **tokenizer, ADAPTER_CONFIG: config})


def write_kolm(path: Path, data: bytes) -> str:
    """Writes the artifact whole or not at all; returns its digest (SHA-256, hexadecimal).

    Raises: StorageFull, ArtifactError.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no room for {path}", remedy="free space and run it again") from None
        raise ArtifactError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return sha256_hex(data)


def _model_members(contents: KolmContents) -> dict[str, bytes]:
    members = {**contents.adapter, **contents.tokenizer}
    if ADAPTER_CONFIG not in members or WEIGHTS not in members:
        raise ArtifactError("the contents lack the adapter's weights or configuration")
    name = contents.base.name
    members[ADAPTER_CONFIG] = normal_adapter_config(members[ADAPTER_CONFIG], name)
    check_adapter_config(members[ADAPTER_CONFIG], name)
    check_weights(members[WEIGHTS])
    check_tokenizer(members)
    return members


def _bound_links(
    contents: KolmContents, members: Mapping[str, bytes], score: Mapping[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """The links with what `reading.check_bindings` will look for."""
    if unknown := set(contents.links) ^ set(LINKS):
        raise ArtifactError(f"receipt links missing or unknown: {', '.join(sorted(unknown))}")
    links = {name: dict(contents.links[name]) for name in LINKS}
    links["holdout"]["rows"] = len(contents.evals["rows"])
    links["score"] |= {"k": score["k"], "evals_sha256": sha256_hex(members[EVALS])}
    links["model"] |= {
        "base_name": contents.base.name,
        "base_digest": contents.base.digest,
        "adapter_sha256": sha256_hex(members[WEIGHTS]),
        "parameters": parameter_count(check_weights(members[WEIGHTS])),
    }
    links["build"] |= {
        "tenant": contents.tenant,
        "namespace": contents.namespace,
        "created_at": rfc3339(contents.created_at_us),
        "product_version": __version__,
    }
    return list(links.items())


def _bom(
    contents: KolmContents, members: Mapping[str, bytes], score: Mapping[str, Any], created_at: str
) -> bytes:
    parts = ("adapter/", "tokenizer/")
    digests = {name: sha256_hex(members[name]) for name in members if name.startswith(parts)}
    document = bill_of_materials(
        name=f"{contents.tenant}.{contents.namespace}",
        version=digests[WEIGHTS],
        created_at=created_at,
        base=contents.base,
        file_digests=digests,
        corpus_root=str(contents.links["corpus"].get("merkle_root", "")),
        score=score,
        product_version=__version__,
    )
    return canonical(document)


def _manifest(
    contents: KolmContents, members: Mapping[str, bytes], chain: list[Link], created_at: str
) -> Manifest:
    return manifest_of(
        {
            "format": FORMAT,
            "tenant": contents.tenant,
            "namespace": contents.namespace,
            "task": contents.task,
            "created_at": created_at,
            "base": contents.base.model_dump(),
            "members": {
                name: {"sha256": sha256_hex(data), "size": len(data)}
                for name, data in members.items()
            },
            "receipt_head": receipt_head(chain),
            "facts": dict(contents.facts),
        }
    )


def _check_sizes(members: Mapping[str, bytes]) -> None:
    for name, data in members.items():
        if name not in MEMBERS:
            raise ArtifactError(f"member {name!r} is unknown; an artifact holds no other files")
        if len(data) > MEMBERS[name]:
            raise ArtifactError(f"member {name!r} has {len(data)} bytes, more than {MEMBERS[name]}")
