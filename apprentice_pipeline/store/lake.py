"""The lake: Delta tables, one root per tenant, partitioned by namespace and date.

Belongs here: appends, scans, SQL, compaction, vacuum, erasure of rows. Does not: opening what is
sealed, joining tables (`pairs`), spools.
Promises: appends from many writers are atomic; an append with an application transaction can be
recognised afterwards, so that it is never made twice; on a local disk an append is on the disk
when it returns. Works on a local folder or any object store URI that deltalake knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import is_name
from apprentice_pipeline.store import delta
from apprentice_pipeline.store.rows import schema_of
from apprentice_pipeline.store.sealing import CAPTURES, TABLES

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

PARTITIONS: Final = ("namespace", "date")
RETENTION_HOURS: Final = 168
"""How long files that compaction replaced stay readable: a week."""
_CATALOG: Final = "_tenants"
_ID_CHUNK: Final = 500


class Lake:
    """Delta tables under one URI. Cheap to make: nothing is read until something is asked."""

    def __init__(self, uri: str, options: Mapping[str, str] | None = None) -> None:
        self._uri = (delta.local_path(uri) or uri).rstrip("/")
        self._options = dict(options or {})
        self._known: set[str] = set()

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
            scan = pl.scan_parquet(paths, hive_schema=dict.fromkeys(PARTITIONS, pl.String))
            return scan.select(schema_of(table).names)

    def sql(self, tenant: str, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a DuckDB query over the tenant's tables (captures, verdicts, comparisons,
        feedback); `$name` in the query takes the parameter of that name.

        Raises: StoreError when the query is wrong.
        """
        named = [table for table in TABLES if table in query]
        tables: dict[str, Any] = {}
        for name in named:
            opened = self.table(tenant, name)
            with delta.mapping_errors():
                tables[name] = (
                    schema_of(name).empty_table() if opened is None else opened.to_pyarrow_dataset()
                )
        return delta.query(tables, query, parameters)

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

    def compact(self, tenant: str) -> int:
        """Merges the small files of every table; returns how many were replaced."""
        return sum(delta.compact(uri, self._options) for _, uri in self._tables(tenant))

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
    ) -> int:
        """Removes rows from every table and their bytes from storage; returns the captures gone.

        Neither `namespace` nor `pair_ids`: everything of the tenant. Rows in spools are not
        seen here (`erasure.erase` takes all places).
        """
        gone = 0
        for name, uri in self._tables(tenant):
            removed = sum(
                delta.delete(uri, self._options, predicate)
                for predicate in _predicates(namespace, pair_ids)
            )
            gone += removed if name == CAPTURES else 0
            delta.purge(uri, self._options)
        if namespace is None and pair_ids is None:
            self._forget(tenant)
        return gone

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

        if tenant in self._known:
            return
        if tenant not in self.tenants():
            delta.append(
                f"{self._uri}/{_CATALOG}", pa.table({"tenant": [tenant]}), options=self._options
            )
        self._known.add(tenant)

    def _forget(self, tenant: str) -> None:
        uri = f"{self._uri}/{_CATALOG}"
        self._known.discard(tenant)
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
