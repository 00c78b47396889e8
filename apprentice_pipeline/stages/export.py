"""The labels export: JSON lines or Parquet, streamed; one code path for CLI and HTTP."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.store.pairs import label_rows
from apprentice_pipeline.store.workspace import Workspace

PARQUET_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Request:
    """What to export; times are RFC 3339 text."""

    tenant: str
    namespace: str
    form: str = "jsonl"
    since: str | None = None
    until: str | None = None
    min_confidence: float | None = None
    limit: int | None = None


def rows(workspace: Workspace, request: Request) -> Iterator[dict[str, Any]]:
    """The label rows, in time order, opened batch by batch. Raises: UsageError for a bad time."""
    return label_rows(
        workspace,
        request.tenant,
        request.namespace,
        since_us=moment(request.since, "since"),
        until_us=moment(request.until, "until"),
        min_confidence=request.min_confidence,
        limit=request.limit,
    )


def lines(workspace: Workspace, request: Request) -> Iterator[bytes]:
    """The rows as JSON lines."""
    for row in rows(workspace, request):
        yield orjson.dumps(row) + b"\n"


def write(workspace: Workspace, request: Request, out: IO[bytes]) -> int:
    """Writes the export to `out` in the request's form; returns the number of rows."""
    if request.form == "parquet":
        return _write_parquet(rows(workspace, request), out)
    count = 0
    for line in lines(workspace, request):
        out.write(line)
        count += 1
    return count


def write_file(workspace: Workspace, request: Request, path: Path) -> int:
    """Writes the export whole or not at all, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            count = write(workspace, request, out)
        os.replace(draft, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", remedy="check --out") from None
    finally:
        draft.unlink(missing_ok=True)
    return count


def moment(text: str | None, name: Literal["since", "until"]) -> int | None:
    """RFC 3339 text as UTC microseconds. Raises: UsageError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{name} is not a time", remedy="write it like 2026-01-31 or 2026-01-31T09:00:00Z"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return int(found.timestamp() * 1_000_000)


def _write_parquet(found: Iterator[dict[str, Any]], out: IO[bytes]) -> int:
    import pyarrow.parquet as pq

    schema = label_schema()
    count = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        while batch := list(islice(found, PARQUET_ROWS)):
            writer.write_table(_table(batch))
            count += len(batch)
    return count


def label_schema() -> Any:
    """The Arrow schema of a label row; `input` and `output` are JSON text."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        [
            ("pair_id", text),
            ("namespace", text),
            ("created_at", text),
            ("provider", text),
            ("model", text),
            ("input", text),
            ("output", text),
            ("latency_us", whole),
            ("input_tokens", whole),
            ("output_tokens", whole),
            ("usage_source", text),
            ("cost_usd", real),
            ("inclusion_probability", real),
            ("verdict", text),
            ("confidence", real),
        ]
    )


def _table(batch: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    as_text = [
        {**row, "input": _json(row["input"]), "output": _json(row["output"])} for row in batch
    ]
    return pa.Table.from_pylist(as_text, schema=label_schema())


def _json(value: Any) -> str:
    """Text stays as it is; anything else becomes JSON text."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
