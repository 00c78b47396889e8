"""Keys: access keys of tenants (hashed) and providers' keys (sealed).

Belongs here: what is stored of a key and how one is found. Does not: what a role may do (the
gateway), sealing (the vault), data keys (`data_keys`).
Promise: no key can be read back from the database. A token is 256 random bits and looked up by
its SHA-256, so neither a stolen database nor the time a lookup takes tells anything about it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, or_, select, update

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import is_name
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import ACCESS_KEYS, PROVIDER_KEYS

ROLES: Final = ("tenant", "capture", "operator")
KEY_PREFIX: Final = "ak_"
MOST_LABEL: Final = 100


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new access key; `key` is the token itself, shown this once and stored nowhere."""

    id: str
    key: str
    tenant: str
    namespace: str | None
    role: str


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of an access key.

    `revoked_at_us`: when it stopped being good, or will (an expiry, the grace of a rotation);
    None while no end is set. `label`: a person's name for it.
    """

    id: str
    tenant: str
    namespace: str | None
    role: str
    provider: str | None
    created_at_us: int
    revoked_at_us: int | None = None
    label: str | None = None

    def is_good(self, now_us: int) -> bool:
        """Whether the key is accepted at that time."""
        return self.revoked_at_us is None or now_us < self.revoked_at_us


def create_key(
    database: Database,
    *,
    tenant: str,
    namespace: str | None,
    role: str,
    provider: str | None,
    now_us: int,
    expires_at_us: int | None = None,
    label: str | None = None,
) -> CreatedKey:
    """See `State.create_key`."""
    _check(tenant, namespace, role)
    _check_label(label)
    asked = KeyRecord("", tenant, namespace, role, provider, now_us, expires_at_us, label)
    with database.write() as connection:
        return _insert(connection, asked)


def rotate_key(database: Database, key_id: str, *, grace_us: int, now_us: int) -> CreatedKey | None:
    """See `State.rotate_key`."""
    with database.write(f"key/{key_id}") as connection:
        row = connection.execute(select(ACCESS_KEYS).where(ACCESS_KEYS.c.id == key_id)).first()
        old = None if row is None else _record(row)
        if old is None or not old.is_good(now_us):
            return None
        end = now_us + grace_us
        until = end if old.revoked_at_us is None else min(end, old.revoked_at_us)
        connection.execute(
            update(ACCESS_KEYS).where(ACCESS_KEYS.c.id == key_id).values(revoked_at_us=until)
        )
        lasts = None if old.revoked_at_us is None else old.revoked_at_us - old.created_at_us
        ends = None if lasts is None else now_us + lasts
        return _insert(connection, replace(old, created_at_us=now_us, revoked_at_us=ends))


def _insert(connection: Connection, asked: KeyRecord) -> CreatedKey:
    """A new token with these rights and times."""
    token = KEY_PREFIX + secrets.token_urlsafe(32)
    created = CreatedKey(
        f"key_{secrets.token_hex(8)}", token, asked.tenant, asked.namespace, asked.role
    )
    row = asdict(asked) | {"id": created.id, "token_hash": _hash(token)}
    connection.execute(ACCESS_KEYS.insert().values(row))
    return created


def find_key(database: Database, token: str, now_us: int) -> KeyRecord | None:
    """See `State.find_key`."""
    if not token.startswith(KEY_PREFIX):
        return None
    digest = _hash(token)
    query = select(ACCESS_KEYS).where(ACCESS_KEYS.c.token_hash == digest)
    with database.read() as connection:
        row = connection.execute(query).first()
    if row is None or not hmac.compare_digest(row.token_hash, digest):
        return None
    found = _record(row)
    return found if found.is_good(now_us) else None


def list_keys(database: Database) -> list[KeyRecord]:
    """See `State.list_keys`."""
    query = select(ACCESS_KEYS).order_by(ACCESS_KEYS.c.created_at_us, ACCESS_KEYS.c.id)
    with database.read() as connection:
        return [_record(row) for row in connection.execute(query)]


def revoke_key(database: Database, key_id: str, now_us: int) -> bool:
    """See `State.revoke_key`."""
    change = (
        update(ACCESS_KEYS)
        .where(
            ACCESS_KEYS.c.id == key_id,
            or_(ACCESS_KEYS.c.revoked_at_us.is_(None), ACCESS_KEYS.c.revoked_at_us > now_us),
        )
        .values(revoked_at_us=now_us)
    )
    with database.write() as connection:
        return connection.execute(change).rowcount == 1


def any_keys(database: Database) -> bool:
    """See `State.any_keys`."""
    with database.read() as connection:
        return connection.execute(select(ACCESS_KEYS.c.id).limit(1)).first() is not None


def put_provider_key(database: Database, tenant: str, provider: str, sealed: bytes) -> None:
    """See `State.put_provider_key`."""
    row = {"tenant": tenant, "provider": provider, "sealed": sealed}
    statement = database.upsert(PROVIDER_KEYS).values(row)
    with database.write() as connection:
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["tenant", "provider"], set_={"sealed": sealed}
            )
        )


def provider_key(database: Database, tenant: str, provider: str) -> bytes | None:
    """See `State.provider_key`."""
    query = select(PROVIDER_KEYS.c.sealed).where(
        PROVIDER_KEYS.c.tenant == tenant, PROVIDER_KEYS.c.provider == provider
    )
    with database.read() as connection:
        return connection.execute(query).scalar()


def provider_keys(database: Database) -> list[tuple[str, str]]:
    """See `State.provider_keys`."""
    columns = (PROVIDER_KEYS.c.tenant, PROVIDER_KEYS.c.provider)
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(*columns))]


def delete_provider_key(database: Database, tenant: str, provider: str) -> bool:
    """See `State.delete_provider_key`."""
    change = delete(PROVIDER_KEYS).where(
        PROVIDER_KEYS.c.tenant == tenant, PROVIDER_KEYS.c.provider == provider
    )
    with database.write() as connection:
        return connection.execute(change).rowcount == 1


def _check(tenant: str, namespace: str | None, role: str) -> None:
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", remedy=f"choose one of {', '.join(ROLES)}")
    for name in (tenant, namespace):
        if name is not None and not is_name(name):
            raise UsageError(
                f"{name!r} is not a name",
                remedy="use lower-case letters, digits, - and _, at most 63, no leading - or _",
            )
    if role == "capture" and namespace is None:
        raise UsageError("a capture key needs a namespace", remedy="give --namespace")


def _check_label(label: str | None) -> None:
    if label is not None and not (label.isprintable() and 0 < len(label.strip()) <= MOST_LABEL):
        raise UsageError(
            "that cannot name a key",
            remedy=f"use at most {MOST_LABEL} printable characters, on one line",
        )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        row.id,
        row.tenant,
        row.namespace,
        row.role,
        row.provider,
        row.created_at_us,
        row.revoked_at_us,
        row.label,
    )
