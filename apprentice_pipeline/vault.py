"""Sealing: what makes every stored input and output unreadable without its tenant's key.

Belongs here: key wrapping, key derivation, AES-256-GCM, keyed fingerprints.
Does not: where wrapped keys are stored (`DataKeyStore`, implemented by `store.data_keys`), where
the master key is kept (`store.master_key`).
Promise: a sealed value opens only for the tenant, namespace, pair id and field it was
sealed for; deleting a tenant's data keys makes all its rows unreadable at once, and no later key
of the tenant has the version of a deleted one.

A sealed value is `version(1) | key version(4) | nonce(12) | ciphertext and tag`; in version 1 the
plaintext is compressed with zstd, in version 2 it is as it was. Row keys: HKDF-Expand (RFC 5869) of
the tenant's data key.
"""

from __future__ import annotations

import functools
import hmac
import os
import secrets
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from apprentice_pipeline.errors import (
    CannotOpen,
    KeyErased,
    KeyMissing,
    MasterKeyChanged,
    VaultError,
)

SEAL_VERSION = 1
TRANSIENT_VERSION = 2
MAX_PLAINTEXT = 512 * 1024 * 1024
_HEADER = struct.Struct(">BI")
_NONCE = 12


class DataKeyStore(Protocol):
    """Where wrapped data keys live. `add` keeps the first writer's key of a version."""

    def wrapped_keys(self, tenant: str) -> dict[int, bytes]:
        """Wrapped keys of a tenant by version; empty when it has none."""
        ...

    def add_wrapped_key(self, tenant: str, version: int, wrapped: bytes, *, mark: str) -> None:
        """Stores a wrapped key unless that version exists already, or was forgotten.

        Raises: MasterKeyChanged when `mark` is not the mark of the master key in force.
        """
        ...

    def delete_wrapped_keys(self, tenant: str) -> None:
        """Forgets every key of a tenant, and remembers the newest version among them."""
        ...

    def forgotten_version(self, tenant: str) -> int:
        """The newest version of a tenant's that was ever forgotten, 0 when none was."""
        ...


class MemoryDataKeys:
    """A `DataKeyStore` in memory: the simulator, and anything that must leave no trace."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[int, bytes]] = {}
        self._forgotten: dict[str, int] = {}

    def wrapped_keys(self, tenant: str) -> dict[int, bytes]:
        """See `DataKeyStore`."""
        return dict(self._keys.get(tenant, {}))

    def add_wrapped_key(self, tenant: str, version: int, wrapped: bytes, *, mark: str) -> None:  # noqa: ARG002 - one master key for life
        """See `DataKeyStore`."""
        if version > self.forgotten_version(tenant):
            self._keys.setdefault(tenant, {}).setdefault(version, wrapped)

    def delete_wrapped_keys(self, tenant: str) -> None:
        """See `DataKeyStore`."""
        versions = self._keys.pop(tenant, {})
        self._forgotten[tenant] = max(versions, default=self.forgotten_version(tenant))

    def forgotten_version(self, tenant: str) -> int:
        """See `DataKeyStore`."""
        return self._forgotten.get(tenant, 0)


class MasterKey:
    """The key that wraps data keys. `mark` names it and reveals nothing of it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise VaultError("the master key must be 32 bytes")
        self.mark = hmac.digest(key, b"apprentice master key mark", "sha256")[:16].hex()
        self._cipher = AESGCM(key)

    def wrap(self, tenant: str, version: int, data_key: bytes) -> bytes:
        """`data_key`, readable with this master key and for this tenant and version only."""
        nonce = os.urandom(_NONCE)
        context = _context(tenant, "", "", "data-key", version)
        return nonce + self._cipher.encrypt(nonce, data_key, context)

    def unwrap(self, tenant: str, version: int, wrapped: bytes) -> bytes:
        """What `wrap` wrapped. Raises: CannotOpen."""
        context = _context(tenant, "", "", "data-key", version)
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], context)
        except (InvalidTag, ValueError):
            raise CannotOpen(
                f"the data key of tenant {tenant!r} does not open with this master key",
                remedy="give the APPRENTICE_MASTER_KEY (or key file) this home was made with, or "
                "rotated to since",
            ) from None


class Vault:
    """Seals and opens with data keys wrapped by one master key. Safe across threads.

    `renew` tells the master key of now, for a vault that outlives a rotation of it.
    """

    def __init__(
        self,
        master_key: bytes | MasterKey,
        keys: DataKeyStore,
        renew: Callable[[], MasterKey] | None = None,
    ) -> None:
        self._master = master_key if isinstance(master_key, MasterKey) else MasterKey(master_key)
        self._store = keys
        self._renew = renew
        self._data_keys: dict[str, dict[int, bytes]] = {}

    def seal(
        self, plaintext: bytes, *, tenant: str, namespace: str, pair_id: str, field: str
    ) -> bytes:
        """`plaintext` sealed for exactly this tenant, namespace, pair and field."""
        fields = {field: plaintext}
        return self.seal_row(fields, tenant=tenant, namespace=namespace, pair_id=pair_id)[field]

    def seal_row(
        self, fields: Mapping[str, bytes], *, tenant: str, namespace: str, pair_id: str
    ) -> dict[str, bytes]:
        """`seal` for several fields of one row, whose key is derived once."""
        version, key = self._current(tenant)
        header = _HEADER.pack(SEAL_VERSION, version)
        cipher, compress = AESGCM(_row_key(key, pair_id)), _zstd().compressor.compress
        place = _place(tenant, namespace, pair_id)
        nonces, sealed = os.urandom(_NONCE * len(fields)), {}
        for at, (field, plaintext) in enumerate(fields.items()):
            nonce = nonces[_NONCE * at : _NONCE * (at + 1)]
            context = place + _joined(field, str(version))
            sealed[field] = header + nonce + cipher.encrypt(nonce, compress(plaintext), context)
        return sealed

    def seal_transient(self, plaintext: bytes, *, tenant: str, place: str, field: str) -> bytes:
        """`plaintext` sealed for this tenant and place, uncompressed: for what is soon gone.

        It opens with `place` as the pair id and no namespace.
        """
        version, key = self._current(tenant)
        nonce = os.urandom(_NONCE)
        context = _context(tenant, "", place, field, version)
        sealed = AESGCM(_row_key(key, place)).encrypt(nonce, plaintext, context)
        return _HEADER.pack(TRANSIENT_VERSION, version) + nonce + sealed

    def open(
        self, sealed: bytes, *, tenant: str, namespace: str, pair_id: str, field: str
    ) -> bytes:
        """The plaintext of `sealed`.

        Raises: KeyErased when an erasure took the key it was sealed with, KeyMissing when that
        key is gone otherwise; CannotOpen when the value was sealed for another row, field or
        tenant, or was changed.
        """
        if len(sealed) < _HEADER.size + _NONCE + 16:
            raise CannotOpen(f"sealed {field} of pair {pair_id} is cut short")
        seal_version, version = _HEADER.unpack_from(sealed)
        if seal_version not in (SEAL_VERSION, TRANSIENT_VERSION):
            raise CannotOpen(f"sealed {field} of pair {pair_id} has format {seal_version}")
        key = self._key(tenant, version)
        nonce = sealed[_HEADER.size : _HEADER.size + _NONCE]
        context = _context(tenant, namespace, pair_id, field, version)
        try:
            body = AESGCM(_row_key(key, pair_id)).decrypt(
                nonce, sealed[_HEADER.size + _NONCE :], context
            )
        except InvalidTag:
            raise CannotOpen(
                f"sealed {field} of pair {pair_id} does not open",
                remedy="the row was moved or changed, or belongs to another key; restore it",
            ) from None
        if seal_version == TRANSIENT_VERSION:
            return body
        return _zstd().decompressor.decompress(body, max_output_size=MAX_PLAINTEXT)

    def fingerprint(self, tenant: str, purpose: str, data: bytes) -> bytes:
        """A keyed 32-byte digest: equal data of one tenant, equal value; reveals nothing else."""
        _, key = self._first(tenant)
        return _keyed_digest(_fingerprint_key(key, purpose), data)

    def forget(self, tenant: str) -> None:
        """Deletes the tenant's data keys: its rows are unreadable everywhere from now on."""
        self._store.delete_wrapped_keys(tenant)
        self._data_keys.pop(tenant, None)

    def refresh(self, tenant: str) -> None:
        """Reads the tenant's keys again, so that an erasure by another process is seen here.

        When the store fails, its error is raised and the keys at hand stay in use.
        """
        if tenant in self._data_keys and not self._load(tenant):
            self._data_keys.pop(tenant, None)

    def _current(self, tenant: str) -> tuple[int, bytes]:
        keys = self._keys(tenant)
        version = max(keys)
        return version, keys[version]

    def _first(self, tenant: str) -> tuple[int, bytes]:
        keys = self._keys(tenant)
        version = min(keys)
        return version, keys[version]

    def _keys(self, tenant: str) -> dict[int, bytes]:
        return self._data_keys.get(tenant) or self._load(tenant) or self._create(tenant)

    def _key(self, tenant: str, version: int) -> bytes:
        key = self._data_keys.get(tenant, {}).get(version) or self._load(tenant).get(version)
        if key is not None:
            return key
        if version <= self._store.forgotten_version(tenant):
            raise KeyErased(
                f"data key {version} of tenant {tenant!r} was erased",
                remedy="what it sealed was erased with it; nothing brings it back",
            )
        raise KeyMissing(
            f"tenant {tenant!r} has no data key {version}",
            remedy="the state database is not the one its data was made with; restore that one",
        )

    def _load(self, tenant: str) -> dict[int, bytes]:
        keys = {
            version: self._unwrap(tenant, version, wrapped)
            for version, wrapped in self._store.wrapped_keys(tenant).items()
        }
        if keys:
            self._data_keys[tenant] = keys
        return keys

    def _create(self, tenant: str) -> dict[int, bytes]:
        data_key = secrets.token_bytes(32)
        try:
            self._add(tenant, data_key)
        except MasterKeyChanged:
            if not self._renewed():
                raise
            self._add(tenant, data_key)
        keys = self._load(tenant)
        if not keys:
            raise KeyMissing(f"the data key of tenant {tenant!r} could not be stored")
        return keys

    def _add(self, tenant: str, data_key: bytes) -> None:
        master = self._master
        version = self._store.forgotten_version(tenant) + 1
        wrapped = master.wrap(tenant, version, data_key)
        self._store.add_wrapped_key(tenant, version, wrapped, mark=master.mark)

    def _unwrap(self, tenant: str, version: int, wrapped: bytes) -> bytes:
        try:
            return self._master.unwrap(tenant, version, wrapped)
        except CannotOpen:
            if not self._renewed():
                raise
        return self._master.unwrap(tenant, version, wrapped)

    def _renewed(self) -> bool:
        """Whether there is another master key now; then it is the one in use."""
        newer = self._renew() if self._renew is not None else self._master
        changed = newer.mark != self._master.mark
        self._master = newer
        return changed


def key_version(sealed: bytes) -> int:
    """The version of the data key that a value was sealed with; 0 where it is cut short."""
    version: int = _HEADER.unpack_from(sealed)[1] if len(sealed) >= _HEADER.size else 0
    return version


class _Zstd(threading.local):
    """One context a thread: making one costs four times what compressing a row does."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


@functools.cache
def _zstd() -> _Zstd:
    return _Zstd()


def _row_key(data_key: bytes, pair_id: str) -> bytes:
    """HKDF-Expand with one block (RFC 5869, section 2.3): the data key is already uniform."""
    return _keyed_digest(data_key, b"row" + _prefixed(pair_id) + b"\x01")


@functools.lru_cache(maxsize=1_024)
def _fingerprint_key(data_key: bytes, purpose: str) -> bytes:
    return _keyed_digest(data_key, b"fingerprint" + _prefixed(purpose))


def _keyed_digest(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256."""
    mac = _mac(key).copy()
    mac.update(data)
    return mac.finalize()


@functools.lru_cache(maxsize=4_096)
def _mac(key: bytes) -> HMAC:
    """Made once a key: to make one costs three times what a short digest does."""
    return HMAC(key, SHA256())


def _context(tenant: str, namespace: str, pair_id: str, field: str, version: int) -> bytes:
    return _place(tenant, namespace, pair_id) + _joined(field, str(version))


def _place(tenant: str, namespace: str, pair_id: str) -> bytes:
    return _joined(tenant, namespace) + _prefixed(pair_id)


@functools.lru_cache(maxsize=4_096)
def _joined(*parts: str) -> bytes:
    return b"".join(map(_prefixed, parts))


def _prefixed(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data
