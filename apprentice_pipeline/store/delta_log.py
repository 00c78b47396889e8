"""What a Delta table's log tells: its files, and what each commit did to them.

Belongs here: reading it. Does not: writing tables (`delta`), counting by it (`rollup`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from apprentice_pipeline.store.delta import local_path

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file by its path under the table, and the least and greatest pair id in it (empty
    where the table does not tell)."""

    path: str
    first: str = ""
    last: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit did to the files of a partition. `rewrite`: it changed no rows."""

    added: tuple[DataFile, ...]
    removed: tuple[str, ...]
    rewrite: bool


def data_files(table: DeltaTable, folder: str) -> list[DataFile]:
    """The files that the table uses whose paths begin with `folder`, by path."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    files = files.filter(pl.col("path").str.starts_with(folder))
    for name in ("min.pair_id", "max.pair_id"):
        if name not in files.columns:
            files = files.with_columns(pl.lit(None, pl.String).alias(name))
    rows = files.select("path", "min.pair_id", "max.pair_id").sort("path").iter_rows()
    return [DataFile(path, *_bounds(first, last)) for path, first, last in rows]


def commits(
    uri: str, options: Mapping[str, str], after: int, until: int, folder: str
) -> list[Commit] | None:
    """What the commits after one version and up to another did to the files whose paths begin with
    `folder`; None where the log does not tell."""
    if until < after:
        return None
    found: list[Commit] = []
    if until == after:
        return found
    read = _log_reader(uri, options)
    for version in range(after + 1, until + 1):
        try:
            lines = read(f"_delta_log/{version:020d}.json").splitlines()
        except OSError:
            return None
        found.append(_commit([orjson.loads(line) for line in lines if line], folder))
    return found


def _log_reader(uri: str, options: Mapping[str, str]) -> Callable[[str], bytes]:
    """Reads a file of the table. Arrow's file systems take 0.4 s to load: not on a local disk."""
    if (path := local_path(uri)) is not None:
        return lambda name: (Path(path) / name).read_bytes()
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    files = PyFileSystem(DeltaStorageHandler(uri, dict(options) or None))

    def read(name: str) -> bytes:
        with files.open_input_stream(name) as stream:
            return bytes(stream.read())

    return read


def _commit(actions: Sequence[Mapping[str, Any]], folder: str) -> Commit:
    mine = [
        (kind, action[kind])
        for action in actions
        for kind in ("add", "remove")
        if kind in action and action[kind]["path"].startswith(folder)
    ]
    return Commit(
        added=tuple(_data_file(each) for kind, each in mine if kind == "add"),
        removed=tuple(each["path"] for kind, each in mine if kind == "remove"),
        rewrite=not any(each.get("dataChange", True) for _, each in mine),
    )


def _data_file(action: Mapping[str, Any]) -> DataFile:
    told = orjson.loads(action.get("stats") or "{}")
    bounds = ((told.get(kind) or {}).get("pair_id") for kind in ("minValues", "maxValues"))
    return DataFile(action["path"], *_bounds(*bounds))


def _bounds(first: str | None, last: str | None) -> tuple[str, str]:
    return (first, last) if first and last else ("", "")
