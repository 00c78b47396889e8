"""Fixtures for the artifact: a signer, whole contents, and the packed file."""

from __future__ import annotations

from pathlib import Path

import pytest

from apprentice_pipeline.artifact.kolm import KolmContents, Signer, load_or_create_signer, pack
from tests.artifact.artifact_parts import SECRET, make_contents


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return load_or_create_signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def contents() -> KolmContents:
    return make_contents()


@pytest.fixture(scope="session")
def artifact(contents: KolmContents, signer: Signer) -> bytes:
    """The packed artifact, macs included."""
    return pack(contents, signer, secret=SECRET)


@pytest.fixture
def artifact_file(artifact: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "prod-tickets.kolm"
    file.write_bytes(artifact)
    return file
