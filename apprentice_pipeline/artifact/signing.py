"""Signatures over an artifact's members, in the format of OpenSSF Model Signing.

Belongs here: the signing key pair, signing, checking. Does not: which members there are.
Promise: `model.sig` is a bundle that the stock `model_signing` command verifies on the unpacked
artifact; members never touch the disk for it; trust comes from the public key given and never
from a file beside the signature. Method: DSSE over an in-toto statement of SHA-256 digests,
ECDSA on P-256 (https://github.com/sigstore/model-transparency).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apprentice_pipeline.artifact.canonical import read_json
from apprentice_pipeline.artifact.members import SIGNATURE
from apprentice_pipeline.errors import ArtifactError

if TYPE_CHECKING:
    from model_signing.manifest import Manifest

PRIVATE_NAME = "signing.key"
PUBLIC_NAME = "signing.pub"
_SERIALIZATION = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": [SIGNATURE],
}


@dataclass(frozen=True, slots=True)
class Signer:
    """Where the private key lies, and the public key (PEM) that checks what it signs."""

    private_key: Path
    public_key: bytes

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.public_key)


def load_or_create_signer(
    key_folder: Path, *, private_key: str = "", public_key: str = ""
) -> Signer:
    """The signer: the key file named by the configuration, else the pair in `key_folder`.

    The pair is made at first need, the private key with mode 0600; of two processes that start
    at once the first wins and both use its key.
    Raises: ArtifactError when a named key is missing, is not P-256, or the two do not match.
    """
    if public_key and not private_key:
        raise ArtifactError(
            "signing.public_key is set without signing.private_key, so nothing can be signed here",
            remedy="set signing.private_key as well, or neither",
        )
    file = Path(private_key) if private_key else key_folder / PRIVATE_NAME
    if not private_key and not file.exists():
        _create_pair(key_folder)
    public = _public_of(file)
    if public_key and trusted_key(key_folder, public_key=public_key) != public:
        raise ArtifactError("signing.public_key does not belong to signing.private_key")
    if not private_key:
        _publish(key_folder / PUBLIC_NAME, public)
    return Signer(private_key=file, public_key=public)


def trusted_key(key_folder: Path, *, public_key: str = "") -> bytes:
    """The pinned public key (PEM): the file named, else the one of `key_folder`'s pair.

    Raises: ArtifactError when there is none, or it is not a P-256 public key.
    """
    file = Path(public_key) if public_key else key_folder / PUBLIC_NAME
    try:
        return _normal_public(file.read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"no public key to trust: {file}: {error.strerror}",
            remedy="name one with --public-key; a key inside the artifact would prove nothing",
        ) from None


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the public key's PEM form, hexadecimal: the hint a signature carries."""
    return hashlib.sha256(_normal_public(public_key)).hexdigest()


def sign(members: Mapping[str, bytes], signer: Signer) -> bytes:
    """The bundle over `members` (all but `model.sig`). Raises: ArtifactError."""
    from model_signing import signing

    with _mapped("the artifact could not be signed"), _private_folder() as folder:
        target = folder / SIGNATURE
        config = signing.Config().use_elliptic_key_signer(private_key=signer.private_key)
        config.set_hashing_config(_Members(members)).sign("artifact", target)
        return target.read_bytes()


def check_signature(members: Mapping[str, bytes], bundle: bytes, public_key: bytes) -> None:
    """That `bundle` signs exactly `members`, with the key that `public_key` (PEM) belongs to.

    Raises: ArtifactError: no bundle, another key, a signature that does not fit, or members that
    are not the signed ones.
    """
    from model_signing import verifying

    if _hint(bundle) != fingerprint(public_key):
        raise ArtifactError(
            "the artifact is signed with another key than the one that is trusted",
            remedy="give the signer's public key if you trust it, else do not use the artifact",
        )
    with _mapped("the signature does not match the artifact"), _private_folder() as folder:
        (folder / PUBLIC_NAME).write_bytes(_normal_public(public_key))
        (folder / SIGNATURE).write_bytes(bundle)
        config = verifying.Config().use_elliptic_key_verifier(public_key=folder / PUBLIC_NAME)
        config.set_hashing_config(_Members(members))
        config.verify(folder, folder / SIGNATURE)


class _Members:
    """Members in memory where the library expects a folder to hash (its `hashing.Config`)."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = members

    def hash(self, _path: Any, *, files_to_hash: Any = None) -> Manifest:
        """The library's manifest of the members. Raises: ValueError when asked for a part."""
        if files_to_hash is not None:
            raise ValueError("all members count")
        from model_signing._hashing.hashing import Digest
        from model_signing.manifest import FileManifestItem, Manifest, SerializationType

        items = [
            FileManifestItem(
                path=Path(name), digest=Digest("sha256", hashlib.sha256(data).digest())
            )
            for name, data in self._members.items()
            if name != SIGNATURE
        ]
        return Manifest("artifact", items, SerializationType.from_args(_SERIALIZATION))

    def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
        """A signature cannot ask for members to be ignored: all of them count."""


def _hint(bundle: bytes) -> str:
    """The fingerprint of the key that the bundle says it was signed with."""
    document = read_json(bundle, SIGNATURE)
    try:
        hint = document["verificationMaterial"]["publicKey"]["hint"]
    except (KeyError, TypeError):
        raise ArtifactError(f"{SIGNATURE} is not a bundle signed with a key") from None
    return str(hint)


@contextmanager
def _mapped(message: str) -> Iterator[None]:
    """The library's errors, which are of every built-in kind, as ours."""
    from cryptography.exceptions import InvalidSignature

    try:
        yield
    except (InvalidSignature, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtifactError(
            f"{message} ({type(error).__name__})", remedy="fetch or build the artifact again"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{message}: {error.strerror}") from None


@contextmanager
def _private_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apprentice-sign-") as folder:
        yield Path(folder)


def private_key_of(file: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file. Raises: ArtifactError when it is no P-256 key."""
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise ArtifactError(f"cannot read the signing key {file}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ArtifactError(
            f"{file} is not an unencrypted private key in PEM form",
            remedy="make one with `openssl ecparam -name prime256v1 -genkey -noout`",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ArtifactError(f"{file} is not an ECDSA P-256 key")
    return key


def _public_of(file: Path) -> bytes:
    return _pem(private_key_of(file).public_key())


def _normal_public(pem: bytes) -> bytes:
    """The one PEM spelling of a public key. Raises: ArtifactError when it is not P-256."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError):
        raise ArtifactError("the trusted key is not a public key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ArtifactError("the trusted key is not an ECDSA P-256 public key")
    return _pem(key)


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _create_pair(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_once(folder / PRIVATE_NAME, private, 0o600)


def _publish(file: Path, public: bytes) -> None:
    """Writes the public half unless it stands there; a different one is a fault, not a fix."""
    _write_once(file, public, 0o644)
    if _normal_public(file.read_bytes()) != public:
        raise ArtifactError(
            f"{file} does not belong to the private key beside it",
            remedy="restore the pair; artifacts signed with the old key need the old public key",
        )


def _write_once(file: Path, data: bytes, mode: int) -> None:
    """Creates `file` with `data` in one step; leaves an existing one alone."""
    if file.exists():
        return
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
