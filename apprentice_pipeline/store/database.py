"""One door to the state database: connections, transactions, and its errors in our words.

Belongs here: SQLite and PostgreSQL differences. Does not: tables or statements of a subject.
Promises: a `read` sees one snapshot; a `write` is serialised where it names a lock (SQLite:
BEGIN IMMEDIATE, PostgreSQL: SELECT … FOR UPDATE of a named row); every SQLAlchemy error leaves
as StoreError, without statement parameters.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from apprentice_pipeline.errors import StorageFull, StoreError
from apprentice_pipeline.store.full_disk import means_full
from apprentice_pipeline.store.private import make_private
from apprentice_pipeline.store.schema import LOCKS, META, METADATA, SCHEMA_VERSION

BUSY_TIMEOUT_MS: Final = 10_000
STATEMENT_TIMEOUT_MS: Final = 30_000
POOL_TIMEOUT_S: Final = 10.0
_LIBPQ: Final = frozenset({"psycopg", "psycopg2"})
_CONNECTING: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""libpq's, unless the URL has its own: what a server that is gone costs, in seconds and (the last)
milliseconds."""
_BEGIN: Final = "apprentice_begin"
_UPGRADES: Final = {1: "ALTER TABLE access_keys ADD COLUMN label VARCHAR"}
"""What makes a database of one schema one of the next."""


class Database:
    """An engine with the transactions this product needs. Safe across threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, url: str) -> Database:
        """Connects and creates what is missing.

        Raises: StoreError when the URL is wrong, the database is out of reach or was made by a
        newer version; StorageFull when the disk has no room.
        """
        try:
            engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise StoreError(
                f"store.state_url cannot be used: {type(error).__name__}",
                remedy="give sqlite:////path/state.db or postgresql+psycopg://user@host/database "
                "(PostgreSQL needs `pip install 'psycopg[binary]'`)",
            ) from None
        database = cls(engine)
        try:
            database._create()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Gives every connection back. Safe to call twice."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self, lock: str | None = None) -> Iterator[Connection]:
        """A transaction that writes; of those that name the same `lock`, one runs at a time."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            if lock is not None and not self._sqlite:
                _lock_row(connection, lock)
            yield connection

    def scrub(self) -> None:
        """Leaves no trace of what was deleted or replaced in the files (SQLite): freed pages are
        overwritten when they are freed, and the journal is emptied here.

        Raises: StoreError when other processes keep the journal in use.
        """
        if not self._sqlite:
            return
        try:
            raw = self._engine.raw_connection()
            try:
                busy = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                raw.close()
        except (SQLAlchemyError, sqlite3.Error) as error:
            busy = type(error).__name__
        if busy:
            raise StoreError(
                "deleted keys may still stand in the state database's journal",
                remedy="run the command again; if that does not help, stop what reads state.db",
            )

    def upsert(self, table: Table) -> Any:
        """An INSERT of the dialect at hand that knows `on_conflict_do_update` and `_nothing`."""
        return _dialect_insert(self._sqlite, table)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(**{_BEGIN: begin})
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise mapped(error) from None

    def _create(self) -> None:
        with self.read() as connection:
            known = self._version(connection)
        if known is None or known < SCHEMA_VERSION:
            with self.write() as connection:
                self._create_tables(connection)
                known = self._upgrade(connection)
        if known != SCHEMA_VERSION:
            raise StoreError(
                f"the state database has schema {known}, this version knows {SCHEMA_VERSION}",
                remedy="start the version of apprentice-pipeline that made it",
            )

    def _create_tables(self, connection: Connection) -> None:
        if not self._sqlite:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7203)")
        for table in METADATA.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
        row = {"name": "schema", "value": str(SCHEMA_VERSION)}
        connection.execute(self.upsert(META).values(row).on_conflict_do_nothing())

    def _upgrade(self, connection: Connection) -> int | None:
        """Brings an older schema up to date; the version that it then has."""
        known = self._version(connection)
        while known in _UPGRADES:
            connection.exec_driver_sql(_UPGRADES[known])
            known += 1
            row = META.update().where(META.c.name == "schema").values(value=str(known))
            connection.execute(row)
        return known

    def _version(self, connection: Connection) -> int | None:
        if not self._engine.dialect.has_table(connection, META.name):
            return None
        value = connection.execute(select(META.c.value).where(META.c.name == "schema")).scalar()
        return None if value is None else int(value)


def mapped(error: SQLAlchemyError) -> StoreError:
    """A database error in this product's words: its kind and remedy, never its parameters."""
    cause = getattr(error, "orig", None)
    extended = getattr(cause, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if means_full(error):
        return StorageFull("the state database's disk is full", remedy="free space on that disk")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            f"the state database stayed locked for {BUSY_TIMEOUT_MS // 1000} s",
            remedy="find the process that holds it, or use PostgreSQL (store.state_url)",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(
            "the state database is damaged",
            remedy="stop every process and restore state.db from a backup",
        )
    name = getattr(cause, "sqlite_errorname", None) or type(cause or error).__name__
    return StoreError(
        f"the state database failed: {name}",
        remedy="check that it is reachable and writable (store.state_url, APPRENTICE_HOME)",
    )


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _server_engine(parsed)
    if parsed.database:
        _create_private(Path(parsed.database))
    engine = create_engine(parsed, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _server_engine(url: URL) -> Engine:
    """PostgreSQL's: whatever becomes of the server or the way to it, nobody waits for ever."""
    libpq = url.get_driver_name() in _LIBPQ
    limits = {k: v for k, v in _CONNECTING.items() if libpq and k not in url.query}
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=POOL_TIMEOUT_S,
        connect_args=limits,
    )
    event.listen(engine, "connect", _limit_statements)
    return engine


def _limit_statements(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
    cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    cursor.close()
    connection.commit()


def _create_private(file: Path) -> None:
    """The database file, mode 0600, before SQLite would make it with the process's umask."""
    try:
        make_private(file)
    except OSError as error:
        raise StoreError(
            f"the state database cannot be opened: {error.strerror}",
            remedy="check APPRENTICE_HOME: it must be a folder this user may write to",
        ) from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _dialect_insert(sqlite: bool, table: Table) -> Any:
    if sqlite:
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert as postgres_insert

    return postgres_insert(table)


def _lock_row(connection: Connection, name: str) -> None:
    row = select(LOCKS.c.name).where(LOCKS.c.name == name).with_for_update()
    if connection.execute(row).first() is None:
        connection.execute(_dialect_insert(False, LOCKS).values(name=name).on_conflict_do_nothing())
        connection.execute(row)
