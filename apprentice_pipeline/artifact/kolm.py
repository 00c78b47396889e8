"""The `.kolm`, the artifact's public door: pack, write, verify, inspect, compare, unpack.

Belongs here: the names that other floors use. Does not: any code; see `packing` and `reading`.
"""

from apprentice_pipeline.artifact.evals import evals_document, row_text
from apprentice_pipeline.artifact.manifest import BaseIdentity, Manifest
from apprentice_pipeline.artifact.model_card import CardFacts
from apprentice_pipeline.artifact.packing import (
    KolmContents,
    model_size_bytes,
    pack,
    read_adapter,
    write_kolm,
)
from apprentice_pipeline.artifact.reading import (
    VerifiedArtifact,
    diff,
    inspect,
    report,
    unpack,
    verify_kolm,
)
from apprentice_pipeline.artifact.signing import (
    Signer,
    fingerprint,
    load_or_create_signer,
    trusted_key,
)
from apprentice_pipeline.artifact.tokenizer_files import read_tokenizer

__all__ = [
    "BaseIdentity",
    "CardFacts",
    "KolmContents",
    "Manifest",
    "Signer",
    "VerifiedArtifact",
    "diff",
    "evals_document",
    "fingerprint",
    "inspect",
    "load_or_create_signer",
    "model_size_bytes",
    "pack",
    "read_adapter",
    "read_tokenizer",
    "report",
    "row_text",
    "trusted_key",
    "unpack",
    "verify_kolm",
    "write_kolm",
]
