"""deltalake and DuckDB, their errors in our words: the mechanics under `lake`.

Belongs here: one Delta table by URI, one query over given tables. Does not: tenants, which
tables exist.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import orjson

from apprentice_pipeline.errors import StorageFull, StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_Outcome = TypeVar("_Outcome")
ROW_GROUP: Final = 2_048
"""Rows a Parquet row group: with sealed rows of a few KB, a few MB to read for one batch."""
TARGET_BYTES: Final = 128 * 1024 * 1024
ORPHAN_HOURS: Final = 1
"""Unreferenced files younger than this may belong to an append under way."""
_RETRIES: Final = 20
_GONE: Final = ("no such file", "os error 2)", "not found")
_FULL: Final = ("no space left", "os error 28", "disk quota", "file too large", "os error 27")
LOG_HOURS: Final = 2
"""How long the table's log tells of a commit. Every commit lists the log, about four times: at one
commit a second a day of it would cost three seconds a commit."""
_CONFIGURATION: Final = {
    "delta.logRetentionDuration": f"interval {LOG_HOURS} hours",
    "delta.dataSkippingStatsColumns": "pair_id,created_at_us",
}


class FilesGone(StoreError):
    """Files of a snapshot that was being read were erased meanwhile (see `reread`)."""


@contextmanager
def mapping_errors() -> Iterator[None]:
    """Errors of deltalake, Arrow, Polars, DuckDB and the file system leave as StoreError.

    Their texts may quote data, so only their kind is kept.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not _is_foreign(error):
            raise
        raise _mapped(error) from None


def open_table(uri: str, options: Mapping[str, str]) -> DeltaTable | None:
    """The newest snapshot of a table, None where there is none. Raises: StoreError."""
    path = local_path(uri)
    if path is not None and not (Path(path) / "_delta_log").is_dir():
        return None
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    with mapping_errors():
        try:
            return DeltaTable(uri, storage_options=dict(options) or None)
        except TableNotFoundError as error:
            if "scheme" not in str(error).lower():
                return None
            raise StoreError(
                "store.lake_uri names a kind of storage that deltalake does not know",
                remedy="give a folder, or a URI such as s3://bucket/prefix (store.lake_uri)",
            ) from None


def append(
    uri: str,
    rows: pa.Table,
    *,
    options: Mapping[str, str],
    partition_by: Sequence[str] = (),
    stamp: tuple[str, int] | None = None,
) -> None:
    """Appends in one commit, made durable on a local disk. Raises: StorageFull, StoreError."""
    from deltalake import CommitProperties, Transaction, WriterProperties, write_deltalake

    properties = CommitProperties(
        app_transactions=None if stamp is None else [Transaction(stamp[0], stamp[1])],
        max_commit_retries=50,
    )

    def once(table: DeltaTable | None) -> None:
        known = -1 if table is None else table.version()
        write_deltalake(
            table if table is not None else uri,
            rows,
            mode="append",
            schema_mode="merge",  # a column that is new since the table was made
            partition_by=list(partition_by) or None,
            configuration=_CONFIGURATION if table is None and partition_by else None,
            storage_options=dict(options) or None,
            commit_properties=properties,
            writer_properties=WriterProperties(max_row_group_size=ROW_GROUP),
        )
        if (path := local_path(uri)) is not None:
            _make_durable(Path(path), since=known)

    _change(uri, options, once)


def delete(
    uri: str, options: Mapping[str, str], predicate: str, pair_ids: set[str] | None = None
) -> int:
    """Deletes the rows of a predicate; returns how many. `pair_ids` gets exactly their ids."""

    def once(table: DeltaTable | None) -> int:
        found = 0 if table is None else _count(table, predicate)
        if table is not None and found:
            gone = _ids(table, predicate) if pair_ids is not None else set()
            table.delete(predicate)
            if pair_ids is not None:
                pair_ids.update(gone)
        return found

    return _change(uri, options, once)


def matching(uri: str, options: Mapping[str, str], predicate: str) -> tuple[int, set[str]]:
    """How many rows a predicate holds for, and their pairs' ids."""
    with mapping_errors():
        table = open_table(uri, options)
        return (0, set()) if table is None else (_count(table, predicate), _ids(table, predicate))


def compact(uri: str, options: Mapping[str, str], at_least: int = 1) -> int:
    """Merges small files, keeping their order; returns how many were replaced.

    Where fewer than `at_least` would go away nothing is done: merging rewrites what was merged
    before. Two at once would both succeed, and double every row (deltalake 1.6 sees no conflict
    between them): on a local disk the second waits; with an object store only the rounds' turn
    (`store.rounds`) keeps them apart, which the server and Dagster take.
    """
    from deltalake import WriterProperties

    def once(table: DeltaTable | None) -> int:
        if table is None or (at_least > 1 and _mergeable(table) < at_least):
            return 0
        properties = WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP)
        metrics = table.optimize.compact(target_size=TARGET_BYTES, writer_properties=properties)
        return int(metrics["numFilesRemoved"])

    with mapping_errors(), _lock(uri, fcntl.LOCK_EX, "compaction"):
        return _change(uri, options, once)


def _mergeable(table: DeltaTable) -> int:
    """About how many files fewer a compaction leaves: of the small ones, one a partition stays."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    small = files.filter(pl.col("size_bytes") < TARGET_BYTES)
    partition = [name for name in files.columns if name.startswith("partition.")]
    return small.height - small.select(partition).n_unique() if small.height else 0


def vacuum(uri: str, options: Mapping[str, str], retention_hours: int) -> int:
    """Deletes files out of use for that long; orphans only once they are surely orphans."""

    def once(table: DeltaTable | None) -> int:
        if table is None:
            return 0
        unused = _vacuum(table, retention_hours, full=False)
        return unused + _vacuum(table, max(retention_hours, ORPHAN_HOURS), full=True)

    return _change(uri, options, once)


def purge(uri: str, options: Mapping[str, str]) -> int:
    """Removes at once every file that the table does not use.

    On a local disk no append is under way meanwhile, so this takes what a crash left as well;
    in an object store that stays for `ORPHAN_HOURS`, until the next vacuum.
    """
    orphan_hours = ORPHAN_HOURS if local_path(uri) is None else 0

    def once(table: DeltaTable | None) -> int:
        if table is None:
            return 0
        unused = _vacuum(table, 0, full=False)
        return unused + _vacuum(table, orphan_hours, full=True)

    return _change(uri, options, once, alone=True)


def rows_by_partition(
    table: DeltaTable, column: str, where: Mapping[str, str]
) -> tuple[tuple[tuple[str, int], ...], int]:
    """Rows of each value of a partition column, in order, and the mean bytes of a row, from the
    files' statistics alone; `where` gives the other partition columns' values."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    chosen = files.filter(
        *(pl.col(f"partition.{name}") == value for name, value in where.items())
    ).select(pl.col(f"partition.{column}").alias("value"), "num_records", "size_bytes")
    counts = chosen.group_by("value").agg(pl.col("num_records").sum()).sort("value")
    rows = int(chosen["num_records"].sum())
    return tuple(counts.iter_rows()), int(chosen["size_bytes"].sum()) // max(1, rows)


def query(
    tables: Mapping[str, Any], statement: str, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of a DuckDB query over Arrow tables or datasets; no file or network access."""
    import duckdb

    with mapping_errors():
        connection = duckdb.connect(":memory:")
        try:
            for name, table in tables.items():
                connection.register(name, table)
            connection.execute("SET enable_external_access = false")
            cursor = connection.execute(statement, dict(parameters) or None)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()


def reread(read: Callable[[], _Outcome]) -> _Outcome:
    """`read()`, again when an erasure took files from under it.

    `read` opens its snapshots itself, so that the next time sees the table without what was
    erased. Raises: StoreError, and whatever else `read` raises.
    """
    for _ in range(_RETRIES):
        try:
            return read()
        except FilesGone:
            continue
    return read()


def local_path(uri: str) -> str | None:
    """The folder a URI names on this machine, None for an object store."""
    if uri.startswith("file://"):
        return unquote(urlsplit(uri).path)
    return None if "://" in uri else uri


def remove_folder(folder: Path) -> None:
    """Removes a folder and all in it, if it exists. Raises: StoreError."""
    with mapping_errors():
        if folder.exists():
            shutil.rmtree(folder)


def _vacuum(table: DeltaTable, retention_hours: int, *, full: bool) -> int:
    return len(
        table.vacuum(retention_hours, dry_run=False, enforce_retention_duration=False, full=full)
    )


def _change(
    uri: str,
    options: Mapping[str, str],
    once: Callable[[DeltaTable | None], _Outcome],
    *,
    alone: bool = False,
) -> _Outcome:
    """`once` on the newest snapshot, again with a newer one when another writer came between:
    a commit that failed so has changed nothing."""
    from deltalake.exceptions import CommitFailedError

    with mapping_errors(), _lock(uri, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        for _ in range(_RETRIES):
            try:
                return once(open_table(uri, options))
            except CommitFailedError:
                continue
        return once(open_table(uri, options))


@contextmanager
def _lock(uri: str, kind: int, name: str = "lock") -> Iterator[None]:
    """On a local disk: writers share the table, `purge` has it alone."""
    path = local_path(uri)
    if path is None:
        yield
        return
    folder, table = Path(path).parent, Path(path).name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / f".{table}.{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _count(table: DeltaTable, predicate: str) -> int:
    from deltalake import QueryBuilder

    found = QueryBuilder().register("t", table).execute(f"SELECT count(*) FROM t WHERE {predicate}")  # noqa: S608
    return int(found.read_all().column(0)[0].as_py())


def _ids(table: DeltaTable, predicate: str) -> set[str]:
    from deltalake import QueryBuilder

    query = f"SELECT DISTINCT pair_id FROM t WHERE {predicate}"  # noqa: S608
    found = QueryBuilder().register("t", table).execute(query).read_all()
    return {str(each) for each in found.column(0).to_pylist()}


def _make_durable(table: Path, *, since: int) -> None:
    """Flushes the commits after version `since` and the files they added.

    deltalake itself does not, and a drain trims its spool after this: it must hold even when
    the power fails.
    """
    log = table / "_delta_log"
    following = (log / f"{version:020d}.json" for version in itertools.count(since + 1))
    newer = list(itertools.takewhile(Path.exists, following))
    added = [
        table / unquote(action["add"]["path"])
        for file in newer
        for action in map(orjson.loads, file.read_bytes().splitlines())
        if "add" in action
    ]
    folders = {file.parent for file in added} | {log, table}
    for path in [*added, *newer, *sorted(folders)]:
        _flush(path)


def _flush(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # another writer compacted it away already
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_foreign(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in {
        "_internal",
        "deltalake",
        "duckdb",
        "_duckdb",
        "polars",
        "pyarrow",
    }


def _mapped(error: Exception) -> StoreError:
    text = str(error).lower()
    if any(sign in text for sign in _FULL):
        return StorageFull("the lake's disk is full", remedy="free space on that disk")
    if isinstance(error, FileNotFoundError) or any(sign in text for sign in _GONE):
        return FilesGone(
            f"files of the lake went away while they were read ({type(error).__name__})",
            remedy="run it again: an erasure was at work; if it stays so, check store.lake_uri "
            "and store.lake_options, and that nobody deleted files of the lake by hand",
        )
    return StoreError(
        f"the lake failed: {type(error).__name__}",
        remedy="check store.lake_uri and store.lake_options; if another writer was at work, "
        "try again",
    )
