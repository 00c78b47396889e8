"""Signed statements: what is read is what was signed, by whom it was to be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.artifact.canonical import canonical
from apprentice_pipeline.artifact.signing import Signer, load_or_create_signer
from apprentice_pipeline.artifact.statement import read_statement, signed_statement
from apprentice_pipeline.errors import ArtifactError

KIND = "apprentice.erasure.v1"
FACTS = {"kind": KIND, "pair_ids": ["p-1", "p-2"], "rows": {"lake": 2, "spool": 0}}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return load_or_create_signer(tmp_path_factory.mktemp("keys"))


def spelt(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_a_statement_is_read_however_it_is_spelt(signer: Signer) -> None:
    document = signed_statement(FACTS, signer)
    for form in (canonical(document), json.dumps(document, indent=4).encode(), spelt(document)):
        assert read_statement(form, signer.public_key, KIND) == FACTS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def test_any_plain_facts_can_be_signed_and_read(signer: Signer) -> None:
    @given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
    def read_back(facts: dict[str, Any]) -> None:
        facts = {**facts, "kind": KIND}
        document = signed_statement(facts, signer)
        assert read_statement(spelt(document), signer.public_key, KIND) == facts

    read_back()


def test_anyone_can_check_it_with_the_documented_bytes(signer: Signer) -> None:
    """Without this product: the line, a line feed, the facts in RFC 8785 form."""
    document = signed_statement(FACTS, signer)
    key = serialization.load_pem_public_key(signer.public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signed = b'apprentice statement\n{"kind":"apprentice.erasure.v1","pair_ids":["p-1","p-2"],'
    signed += b'"rows":{"lake":2,"spool":0}}'
    value = base64.b64decode(document["signature"]["value"])
    key.verify(value, signed, ec.ECDSA(hashes.SHA256()))


DEFECTS: dict[str, tuple[Change, str]] = {
    "another fact": (lambda d: d["facts"].update(pair_ids=[]), "does not match"),
    "a number changed": (lambda d: d["facts"]["rows"].update(lake=1), "does not match"),
    "one fact more": (lambda d: d["facts"].update(also=True), "does not match"),
    "one fact less": (lambda d: d["facts"].pop("rows"), "does not match"),
    "no facts": (lambda d: d.pop("facts"), "not a signed statement"),
    "no kind": (lambda d: d["facts"].pop("kind"), "not a signed statement"),
    "no signature": (lambda d: d.pop("signature"), "not a signed statement"),
    "a second signature": (lambda d: d.update(signatures=[]), "form known here"),
    "another algorithm": (lambda d: d["signature"].update(algorithm="none"), "form known here"),
    "not base64": (lambda d: d["signature"].update(value="?"), "not a signed statement"),
    "an empty signature": (lambda d: d["signature"].update(value=""), "does not match"),
    "another key": (lambda d: d["signature"].update(key="0" * 64), "another key"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_changed_statement_is_refused(signer: Signer, defect: str) -> None:
    change, message = DEFECTS[defect]
    document = signed_statement(FACTS, signer)
    change(document)
    with pytest.raises(ArtifactError, match=message):
        read_statement(spelt(document), signer.public_key, KIND)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"PK\x03\x04", "not JSON"),
        (b"\xff{}", "UTF-8"),
        (b"[]", "not a signed statement"),
        (b'{"facts": 1, "signature": 2}', "not a signed statement"),
        (b'{"facts": {}, "facts": {}}', "twice"),
        (b"[" * 100_000, "nests too deep"),
    ],
)
def test_what_is_no_statement_is_refused(signer: Signer, data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_statement(data, signer.public_key, KIND)


def test_a_statement_of_another_kind_proves_nothing_of_this_one(signer: Signer) -> None:
    document = signed_statement({**FACTS, "kind": "apprentice.promise.v1"}, signer)
    with pytest.raises(ArtifactError, match=r"no apprentice\.erasure\.v1"):
        read_statement(spelt(document), signer.public_key, KIND)


def test_a_signature_of_another_key_under_the_trusted_keys_name_is_refused(
    signer: Signer, tmp_path: Path
) -> None:
    document = signed_statement(FACTS, load_or_create_signer(tmp_path))
    with pytest.raises(ArtifactError, match="another key"):
        read_statement(spelt(document), signer.public_key, KIND)
    document["signature"]["key"] = signer.fingerprint
    with pytest.raises(ArtifactError, match="does not match"):
        read_statement(spelt(document), signer.public_key, KIND)
