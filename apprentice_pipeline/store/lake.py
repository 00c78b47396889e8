"""The lake: Delta tables, one root per tenant, partitioned by namespace and date.

Belongs here: appends, scans, SQL, compaction, vacuum, erasure of rows. Does not: opening what is
sealed, joining tables (`pairs`), spools.
Promises: appends from many writers are atomic; an append with an application transaction can be
recognised afterwards, so that it is never made twice; on a local disk an append is on the disk
when it returns. Works on a local folder or any object store URI that deltalake knows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import is_name
from apprentice_pipeline.store import delta, delta_log
from apprentice_pipeline.store.delta_log import Commit, DataFile
from apprentice_pipeline.store.rows import schema_of
from apprentice_pipeline.store.sealing import CAPTURES, TABLES

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

PARTITIONS: Final = ("namespace", "date")
RETENTION_HOURS: Final = 168
"""How long files that compaction replaced stay readable: a week."""
_OLDER: Final = """
SELECT DISTINCT pair_id FROM captures WHERE namespace = $namespace AND created_at_us < $before
"""
_CATALOG: Final = "_tenants"
_KNOWN_S: Final = 60.0
"""How long a tenant counts as named in the catalogue: another process may erase it."""
_ID_CHUNK: Final = 2_000
"""Ids a statement: each is a pass over the files; ten thousands overflow the parser's stack."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What an erasure took from one table: rows, the table's Delta versions (-1 where there is no
    table any more), the pairs' ids."""

    table: str
    rows: int
    version_before: int
    version_after: int
    pair_ids: frozenset[str]


class Lake:
    """Delta tables under one URI. Cheap to make: nothing is read until something is asked."""

    def __init__(self, uri: str, options: Mapping[str, str] | None = None) -> None:
        self._uri = (delta.local_path(uri) or uri).rstrip("/")
        self._options = dict(options or {})
        self._known: dict[str, float] = {}

    def append(
        self,
        tenant: str,
        table: str,
        rows: pa.Table,
        *,
        app_id: str | None = None,
        version: int | None = None,
    ) -> None:
        """Appends `rows` (the columns of `records.<table>_schema`) in one commit.

        With `app_id` and `version` the commit is stamped; `transaction_version` reads the stamp
        back. Repeating a version is not refused here: read first.
        Raises: StorageFull, StoreError; then nothing was appended.
        """
        schema = schema_of(table)
        if set(rows.column_names) != set(schema.names):
            raise StoreError(f"rows do not have the columns of table {table!r}")
        if self.table(tenant, table) is None:
            self._known.pop(tenant, None)  # new, or erased by another process
        self._register(tenant)
        delta.append(
            self._table_uri(tenant, table),
            rows.select(schema.names).cast(schema),
            options=self._options,
            partition_by=PARTITIONS,
            stamp=None if app_id is None or version is None else (app_id, version),
        )

    def transaction_version(self, tenant: str, table: str, app_id: str) -> int | None:
        """The newest version that `app_id` stamped on the table, None when there is none."""
        opened = self.table(tenant, table)
        return None if opened is None else opened.transaction_version(app_id)

    def table(self, tenant: str, table: str) -> DeltaTable | None:
        """A snapshot of the Delta table, None where it does not exist yet. Raises: StoreError."""
        return delta.open_table(self._table_uri(tenant, table), self._options)

    def scan(self, tenant: str, table: str) -> pl.LazyFrame:
        """The table, lazily, filters pushed down to files; empty where it does not exist yet."""
        import polars as pl

        opened = self.table(tenant, table)
        with delta.mapping_errors():
            files = [] if opened is None else opened.file_uris()
            if not files:
                empty = pl.from_arrow(schema_of(table).empty_table())
                return empty.lazy()  # type: ignore[union-attr]
            if "%" not in files[0]:
                return pl.scan_delta(opened, storage_options=self._options or None)
            # scan_delta looks for "a%20b" where the folder is "a b" (polars 2.1)
            paths = [unquote(file) for file in files]
            known = pl.DataFrame(schema_of(table).empty_table()).schema
            scan = pl.scan_parquet(
                paths,
                hive_schema=dict.fromkeys(PARTITIONS, pl.String),
                schema={name: kind for name, kind in known.items() if name not in PARTITIONS},
                missing_columns="insert",  # files from before a column was added
            )
            return scan.select(schema_of(table).names)

    def sql(self, tenant: str, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a DuckDB query over the tenant's tables (captures, verdicts, comparisons,
        feedback); `$name` in the query takes the parameter of that name.

        Raises: StoreError when the query is wrong.
        """
        named = [table for table in TABLES if table in query]

        def once() -> list[dict[str, Any]]:
            return delta.query(
                {name: self._dataset(tenant, name) for name in named}, query, parameters
            )

        return delta.reread(once)

    def tenants(self) -> list[str]:
        """Every tenant that has rows or had them, sorted. Raises: StoreError."""
        opened = delta.open_table(f"{self._uri}/{_CATALOG}", self._options)
        if opened is None:
            return []
        with delta.mapping_errors():
            found = opened.to_pyarrow_table(columns=["tenant"])
        return sorted(set(found.column("tenant").to_pylist()))

    def is_empty(self, tenant: str) -> bool:
        """Whether the tenant never captured anything; on a local folder, told at once."""
        return self.table(tenant, CAPTURES) is None

    def namespaces(self, tenant: str) -> list[str]:
        """Every namespace that the tenant has captures in, sorted. Reads no data file."""
        opened = self.table(tenant, CAPTURES)
        if opened is None:
            return []
        with delta.mapping_errors():
            return sorted({part["namespace"] for part in opened.partitions()})

    def files(self, tenant: str, table: str, namespace: str) -> tuple[int, list[DataFile]]:
        """The table's version (-1: no table) and the data files that hold a namespace's rows now.
        A file never changes; compaction and erasure put others in its place."""
        opened = self.table(tenant, table)
        if opened is None:
            return -1, []
        with delta.mapping_errors():
            return opened.version(), delta_log.data_files(opened, f"namespace={namespace}/")

    def changes(
        self, tenant: str, table: str, namespace: str, after: int, until: int
    ) -> list[Commit] | None:
        """What the commits after one version and up to another did to a namespace's data files;
        None where the table's log does not tell."""
        uri = self._table_uri(tenant, table)
        with delta.mapping_errors():
            return delta_log.commits(uri, self._options, after, until, f"namespace={namespace}/")

    def scan_files(self, tenant: str, table: str, files: Sequence[str]) -> pl.LazyFrame:
        """The rows of some of a table's data files, given by their paths, lazily, with the columns
        of the first."""
        import polars as pl

        with delta.mapping_errors():
            if not files:
                empty = pl.from_arrow(schema_of(table).empty_table())
                return empty.lazy()  # type: ignore[union-attr]
            return pl.scan_parquet(
                [f"{self._table_uri(tenant, table)}/{file}" for file in files],
                hive_schema=dict.fromkeys(PARTITIONS, pl.String),
                storage_options=self._options or None,
                missing_columns="insert",
                extra_columns="ignore",
            )

    def days(
        self, tenant: str, table: str, namespace: str
    ) -> tuple[tuple[tuple[str, int], ...], int]:
        """The dates that a namespace has rows on, in order, with how many, and the mean bytes a
        row takes. Reads no data file."""
        opened = self.table(tenant, table)
        if opened is None:
            return (), 0
        with delta.mapping_errors():
            return delta.rows_by_partition(opened, "date", {"namespace": namespace})

    def compact(self, tenant: str, at_least: int = 1) -> int:
        """Merges the small files of every table that would lose so many; returns how many were
        replaced."""
        tables = self._tables(tenant)
        return sum(delta.compact(uri, self._options, at_least) for _, uri in tables)

    def vacuum(self, tenant: str, retention_hours: int = RETENTION_HOURS) -> int:
        """Deletes files that no table has used for that long; returns how many.

        Never deletes what an append that is under way has written.
        """
        return sum(
            delta.vacuum(uri, self._options, retention_hours) for _, uri in self._tables(tenant)
        )

    def erase(
        self,
        tenant: str,
        *,
        namespace: str | None = None,
        pair_ids: Sequence[str] | None = None,
        removals: list[Removal] | None = None,
    ) -> int:
        """Removes rows from every table and their bytes from storage; returns the captures gone.

        `removals` gets one entry a table, with the ids of exactly the rows that went. Neither
        `namespace` nor `pair_ids`: everything of the tenant. Rows in spools are not seen here
        (`erasure.erase` takes all places).
        """
        where = list(_predicates(namespace, pair_ids))
        gone = self._remove(tenant, dict.fromkeys(TABLES, where), removals)
        if namespace is None and pair_ids is None:
            self._forget(tenant)
        return gone

    def erasable(
        self,
        tenant: str,
        *,
        namespace: str | None = None,
        pair_ids: Sequence[str] | None = None,
    ) -> list[Removal]:
        """What `erase` would take now, table by table."""
        found = []
        for name, uri in self._tables(tenant):
            version, rows, ids = self._version(tenant, name), 0, set[str]()
            for predicate in _predicates(namespace, pair_ids):
                more, of_these = delta.matching(uri, self._options, predicate)
                rows += more
                ids |= of_these
            found.append(Removal(name, rows, version, version, frozenset(ids)))
        return found

    def older(self, tenant: str, namespace: str, before_us: int) -> list[str]:
        """The ids of a namespace's captures of before that time. Raises: StoreError."""
        rows = self.sql(tenant, _OLDER, namespace=namespace, before=before_us)
        return [row["pair_id"] for row in rows]

    def expire(self, tenant: str, namespace: str, before_us: int, pair_ids: Sequence[str]) -> int:
        """As `erase`, for the captures of before that time, whose ids are `pair_ids`.

        However many they are, the captures go in one commit: no reader sees some of them gone.
        """
        by_id = list(_predicates(namespace, pair_ids))
        by_time = f"namespace = '{namespace}' AND created_at_us < {before_us:d}"
        return self._remove(tenant, {**dict.fromkeys(TABLES, by_id), CAPTURES: [by_time]})

    def _remove(
        self,
        tenant: str,
        where: Mapping[str, Sequence[str]],
        removals: list[Removal] | None = None,
    ) -> int:
        """Deletes each table's rows of those predicates, and their bytes; the captures gone."""
        gone = 0
        for name, uri in self._tables(tenant):
            ids: set[str] | None = None if removals is None else set()
            before = self._version(tenant, name)
            removed = sum(delta.delete(uri, self._options, each, ids) for each in where[name])
            gone += removed if name == CAPTURES else 0
            if removals is not None:
                after = self._version(tenant, name)
                removals.append(Removal(name, removed, before, after, frozenset(ids or ())))
            delta.purge(uri, self._options)
        return gone

    def _version(self, tenant: str, table: str) -> int:
        opened = self.table(tenant, table)
        return -1 if opened is None else opened.version()

    def _dataset(self, tenant: str, table: str) -> Any:
        """The table's newest snapshot as Arrow sees it."""
        opened = self.table(tenant, table)
        with delta.mapping_errors():
            return schema_of(table).empty_table() if opened is None else opened.to_pyarrow_dataset()

    def _tables(self, tenant: str) -> Iterator[tuple[str, str]]:
        """Names and URIs of the tables that exist."""
        for name in TABLES:
            if self.table(tenant, name) is not None:
                yield name, self._table_uri(tenant, name)

    def _table_uri(self, tenant: str, table: str) -> str:
        if not is_name(tenant):
            raise StoreError(f"{tenant!r} is not a tenant's name")
        return f"{self._uri}/{tenant}/{table}"

    def _register(self, tenant: str) -> None:
        """Names the tenant in the catalogue: an object store has no folders to list."""
        import pyarrow as pa

        if time.monotonic() < self._known.get(tenant, 0.0):
            return
        if tenant not in self.tenants():
            delta.append(
                f"{self._uri}/{_CATALOG}", pa.table({"tenant": [tenant]}), options=self._options
            )
        self._known[tenant] = time.monotonic() + _KNOWN_S

    def _forget(self, tenant: str) -> None:
        uri = f"{self._uri}/{_CATALOG}"
        self._known.pop(tenant, None)
        if delta.open_table(uri, self._options) is not None:
            delta.delete(uri, self._options, f"tenant = '{tenant}'")
            delta.purge(uri, self._options)
        if delta.local_path(self._uri) is not None:
            delta.remove_folder(Path(self._uri) / tenant)


def _predicates(namespace: str | None, pair_ids: Sequence[str] | None) -> Iterator[str]:
    if namespace is not None and not is_name(namespace):
        raise StoreError(f"{namespace!r} is not a namespace's name")
    where = "true" if namespace is None else f"namespace = '{namespace}'"
    if pair_ids is None:
        yield where
        return
    quoted = ["'" + pair_id.replace("'", "''") + "'" for pair_id in pair_ids]
    for start in range(0, len(quoted), _ID_CHUNK):
        chunk = ", ".join(quoted[start : start + _ID_CHUNK])
        yield f"{where} AND pair_id IN ({chunk})"
