"""A signed statement: plain facts, and a signature over their canonical JSON.

Belongs here: signing facts, checking and reading them back, offline. Does not: what the facts
say, artifacts (`signing`, whose key pair this uses).
Promise: what `read_statement` returns is exactly what was signed, by the key that is trusted and
for this kind of statement; the file may be spelt in any way JSON allows.

The file is `{"facts": …, "signature": {"algorithm", "key", "value"}}`. Signed (ECDSA, P-256,
SHA-256, DER, base64) is the line `apprentice statement`, a line feed, and `facts` in RFC 8785
form; `key` is the SHA-256 of the signer's public key in PEM form.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apprentice_pipeline.artifact.canonical import canonical, read_json
from apprentice_pipeline.artifact.signing import Signer, fingerprint, private_key_of
from apprentice_pipeline.errors import ArtifactError

ALGORITHM: Final = "ecdsa-p256-sha256"
_PREFIX: Final = b"apprentice statement\n"
_METHOD: Final = ec.ECDSA(hashes.SHA256())


def signed_statement(facts: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """The statement as JSON values; `facts["kind"]` names its kind. Raises: ArtifactError."""
    value = private_key_of(signer.private_key).sign(_PREFIX + canonical(facts), _METHOD)
    signature = {
        "algorithm": ALGORITHM,
        "key": signer.fingerprint,
        "value": base64.b64encode(value).decode(),
    }
    return {"facts": dict(facts), "signature": signature}


def read_statement(data: bytes, public_key: bytes, kind: str) -> dict[str, Any]:
    """The facts of a statement of that kind, signed by the key `public_key` (PEM) belongs to.

    Raises: ArtifactError: not a statement, another kind, another key, or changed facts.
    """
    document = read_json(data, "the statement")
    try:
        facts, signature = document["facts"], document["signature"]
        algorithm, key, value = (signature[name] for name in ("algorithm", "key", "value"))
        given = base64.b64decode(value, validate=True)
        found = facts["kind"]
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise ArtifactError("this is not a signed statement") from None
    if len(document) != 2 or len(signature) != 3 or algorithm != ALGORITHM:
        raise ArtifactError("this is not a signed statement of a form known here")
    if key != fingerprint(public_key):
        raise ArtifactError(
            "the statement is signed with another key than the one that is trusted",
            remedy="give the signer's public key (--public-key) if you trust it",
        )
    trusted = serialization.load_pem_public_key(public_key)
    assert isinstance(trusted, ec.EllipticCurvePublicKey)  # `fingerprint` has checked it
    try:
        trusted.verify(given, _PREFIX + canonical(facts), _METHOD)
    except InvalidSignature:
        raise ArtifactError(
            "the signature does not match the statement",
            remedy="it was changed after it was signed; ask the signer for the original",
        ) from None
    if found != kind:
        raise ArtifactError(f"the statement is no {kind}")
    return dict(facts)


def looks_like_statement(data: bytes) -> bool:
    """Whether these first bytes of a file may begin a statement, and cannot begin a `.kolm`."""
    return data.lstrip()[:1] == b"{"
