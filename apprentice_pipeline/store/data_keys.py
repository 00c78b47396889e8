"""Tenants' data keys, wrapped, and the mark of the master key that wraps them.

Belongs here: storing, deleting and re-wrapping. Does not: any cipher (the vault), the master
key itself.
Promise: at every instant all wrapped keys are wrapped by the one master key whose mark stands
beside them: a process that still holds an older master key cannot add to them. What is deleted
or replaced leaves no byte in SQLite's files. The version of a deleted key is never used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, delete, func, select, update

from apprentice_pipeline.errors import MasterKeyChanged
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.schema import DATA_KEYS, META, PROVIDER_KEYS

MARK: Final = "master-key"
_LOCK: Final = "master-key"
_FORGOTTEN: Final = "forgotten-data-key/"
"""Before a tenant's name in META: the newest version of its keys that was deleted."""


def master_key_changed() -> MasterKeyChanged:
    """The error for a master key that is not the one in force."""
    return MasterKeyChanged(
        "the data keys of this home are wrapped by another master key",
        remedy="give the APPRENTICE_MASTER_KEY (or key file) this home is under now; after a "
        "rotation that is the new one, and running processes are restarted with it",
    )


class DataKeys:
    """The data keys of one state database; a `vault.DataKeyStore`. Safe across threads."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed

    def wrapped_keys(self, tenant: str) -> dict[int, bytes]:
        """See `vault.DataKeyStore`."""
        query = select(DATA_KEYS.c.version, DATA_KEYS.c.wrapped).where(DATA_KEYS.c.tenant == tenant)
        with self._database.read() as connection:
            return {row.version: row.wrapped for row in connection.execute(query)}

    def add_wrapped_key(self, tenant: str, version: int, wrapped: bytes, *, mark: str) -> None:
        """See `vault.DataKeyStore`."""
        row = {"tenant": tenant, "version": version, "wrapped": wrapped}
        with self._database.write(_LOCK) as connection:
            self._hold(connection, mark)
            if version > _forgotten(connection, tenant):
                statement = self._database.upsert(DATA_KEYS).values(row)
                connection.execute(statement.on_conflict_do_nothing())

    def delete_wrapped_keys(self, tenant: str) -> None:
        """See `vault.DataKeyStore`. Sealed provider keys would open no more: they go too."""
        with self._database.write(_LOCK) as connection:
            self._remember(connection, tenant)
            connection.execute(delete(DATA_KEYS).where(DATA_KEYS.c.tenant == tenant))
            connection.execute(delete(PROVIDER_KEYS).where(PROVIDER_KEYS.c.tenant == tenant))
        self._changed()
        self._database.scrub()

    def forgotten_version(self, tenant: str) -> int:
        """See `vault.DataKeyStore`."""
        with self._database.read() as connection:
            return _forgotten(connection, tenant)

    def mark(self) -> str | None:
        """The mark of the master key that wraps them; None while nothing was wrapped."""
        with self._database.read() as connection:
            return _mark(connection)

    def some_key(self) -> tuple[str, int, bytes] | None:
        """Tenant, version and wrapped bytes of some data key, None when there is none."""
        columns = (DATA_KEYS.c.tenant, DATA_KEYS.c.version, DATA_KEYS.c.wrapped)
        with self._database.read() as connection:
            row = connection.execute(select(*columns).limit(1)).first()
        return None if row is None else (row.tenant, row.version, row.wrapped)

    def claim(self, mark: str) -> None:
        """Puts the mark in force where none is. Raises: MasterKeyChanged when another is."""
        with self._database.write(_LOCK) as connection:
            self._hold(connection, mark)

    def rewrap(self, old: str, new: str, change: Callable[[str, int, bytes], bytes]) -> int:
        """Replaces every wrapped key by `change(tenant, version, wrapped)` and the mark `old` by
        `new`, all or nothing; returns how many. Raises: MasterKeyChanged when `old` is not it.
        """
        with self._database.write(_LOCK) as connection:
            self._hold(connection, old)
            rows = connection.execute(select(DATA_KEYS)).all()
            for row in rows:
                connection.execute(
                    update(DATA_KEYS)
                    .where(DATA_KEYS.c.tenant == row.tenant, DATA_KEYS.c.version == row.version)
                    .values(wrapped=change(row.tenant, row.version, row.wrapped))
                )
            connection.execute(update(META).where(META.c.name == MARK).values(value=new))
        self._database.scrub()
        return len(rows)

    def _remember(self, connection: Connection, tenant: str) -> None:
        """Notes the newest version that the tenant has, for it is about to be deleted."""
        query = select(func.max(DATA_KEYS.c.version)).where(DATA_KEYS.c.tenant == tenant)
        newest = connection.execute(query).scalar()
        if newest is not None:
            statement = self._database.upsert(META).values(
                {"name": _FORGOTTEN + tenant, "value": str(newest)}
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"], set_={"value": str(newest)}
                )
            )

    def _hold(self, connection: Connection, mark: str) -> None:
        """Makes `mark` the one in force where none is. Raises: MasterKeyChanged for another."""
        values = {"name": MARK, "value": mark}
        connection.execute(self._database.upsert(META).values(values).on_conflict_do_nothing())
        if _mark(connection) != mark:
            raise master_key_changed()


def _forgotten(connection: Connection, tenant: str) -> int:
    query = select(META.c.value).where(META.c.name == _FORGOTTEN + tenant)
    return int(connection.execute(query).scalar() or 0)


def _mark(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(META.c.value).where(META.c.name == MARK)).scalar()
    return found
