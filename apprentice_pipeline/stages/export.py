"""The labels export: JSON lines or Parquet, in any style, streamed; one path for CLI and HTTP.

Belongs here: from label rows to files. Does not: the rows (`store.pairs`), what a style makes of
one (`wire.styles`). Promises: memory holds one batch, whatever the corpus; a row that the style or
the form cannot hold is counted by reason in `left_out`, never cut.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from apprentice_pipeline.errors import StoreError, UsageError, WireError
from apprentice_pipeline.stages import exported
from apprentice_pipeline.store.pairs import label_rows
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.wire.styles import STYLES, styled

PARQUET_ROWS = 2_000
PARQUET_BYTES = 4 * 1024 * 1024
"""A row group: whichever comes first, counted in the JSON of its rows."""
FORMS = ("jsonl", "parquet")

LeftOut = Counter[str]


@dataclass(frozen=True, slots=True)
class Request:
    """What to export; times are RFC 3339 text. `style`: one of `wire.styles.STYLES`."""

    tenant: str
    namespace: str
    form: str = "jsonl"
    since: str | None = None
    until: str | None = None
    min_confidence: float | None = None
    limit: int | None = None
    style: str = "pairs"


@dataclass(slots=True)
class Written:
    """What came of an export: rows written, rows left out by reason, rows whose key is erased."""

    rows: int = 0
    left_out: LeftOut = field(default_factory=Counter)
    erased: int = 0

    def note(self) -> str:
        """What was left out and why, "" where nothing was."""
        notes = []
        if self.left_out:
            reasons = ", ".join(f"{count} {why}" for why, count in self.left_out.most_common())
            total = self.left_out.total()
            notes.append(f"left out {total} rows that this style cannot hold: {reasons}")
        if self.erased:
            notes.append(f"passed over {self.erased} rows whose key was erased with their tenant")
        return "; ".join(notes)

    def pass_over(self, _pair_id: str) -> None:
        """Counts a row whose key is erased."""
        self.erased += 1


def check(request: Request) -> None:
    """Raises: UsageError for a form, a style, or a time that makes no sense."""
    if request.form not in FORMS:
        raise UsageError("format is jsonl or parquet", remedy="give one of the two")
    if request.style not in STYLES:
        raise UsageError("no such style", remedy=f"choose one of {', '.join(STYLES)}")
    if request.style == "chat" and request.form == "parquet":
        raise UsageError(
            "OpenAI's fine-tuning takes JSON lines, so style chat has no Parquet form",
            remedy="ask for jsonl, or for style trl or sharegpt",
        )
    moment(request.since, "since")
    moment(request.until, "until")


def rows(
    workspace: Workspace, request: Request, written: Written | None = None
) -> Iterator[dict[str, Any]]:
    """The rows in their style, in time order, opened batch by batch; `written` is kept up to date.

    Raises: UsageError as `check` does; StoreError, VaultError.
    """
    check(request)
    written = Written() if written is None else written
    found = label_rows(
        workspace,
        request.tenant,
        request.namespace,
        since_us=moment(request.since, "since"),
        until_us=moment(request.until, "until"),
        min_confidence=request.min_confidence,
        limit=request.limit,
        on_erased=written.pass_over,
    )
    for row in found:
        try:
            ready = styled(request.style, row)
            if request.form == "parquet":
                ready = _flat(request.style, ready)
        except WireError as error:
            written.left_out[error.message] += 1
            continue
        written.rows += 1
        yield ready


def lines(
    workspace: Workspace, request: Request, written: Written | None = None
) -> Iterator[bytes]:
    """The rows as JSON lines."""
    for row in rows(workspace, request, written):
        yield _written(row) + b"\n"


def write(workspace: Workspace, request: Request, out: IO[bytes]) -> Written:
    """Writes the export to `out` in the request's form."""
    written = Written()
    if request.form == "parquet":
        _write_parquet(request.style, rows(workspace, request, written), out)
        return written
    for line in lines(workspace, request, written):
        out.write(line)
    return written


def write_file(workspace: Workspace, request: Request, path: Path) -> Written:
    """Writes the export whole or not at all, readable by its owner only.

    Raises: UsageError; StoreError, VaultError, also when pairs of the stream were erased meanwhile.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            exported.begin(workspace, request.tenant, request.namespace, draft)
            written = write(workspace, request, out)
        _finish(workspace, request, draft, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", remedy="check --out") from None
    finally:
        draft.unlink(missing_ok=True)
    return written


def _finish(workspace: Workspace, request: Request, draft: Path, path: Path) -> None:
    """Noted under its name before it has it: an erasure finds it under the one or the other."""
    try:
        exported.remember(workspace, request.tenant, request.namespace, draft, path)
        os.replace(draft, path)
    except FileNotFoundError:
        raise StoreError(
            "pairs of this stream were erased while it was exported, and the unfinished file with "
            "them",
            remedy="run it again",
        ) from None


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


def schema_of(style: str) -> Any:
    """The Arrow schema of a style. In `pairs`, `input` and `output` are JSON text."""
    import pyarrow as pa

    text = pa.string()
    if style == "trl":
        turns = pa.list_(pa.struct([("role", text), ("content", text)]))
        return pa.schema([("prompt", turns), ("completion", turns)])
    if style == "sharegpt":
        said = pa.list_(pa.struct([("from", text), ("value", text)]))
        return pa.schema([("conversations", said), ("tools", text)])
    return label_schema()


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


def _write_parquet(style: str, found: Iterator[dict[str, Any]], out: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(style)
    whole = _Whole(out)
    with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        try:
            for batch in _batches(found):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        except BaseException:
            whole.failed = True
            raise


class _Whole(io.RawIOBase):
    """Takes no more once writing has failed: a Parquet writer ends its file in any case, and what
    came so far would pass for the whole corpus."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__()
        self.failed = False
        self._out = out
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not self.failed:
            self._out.write(data)
        self._position += len(data)
        return len(data)


def _batches(found: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in found:
        batch.append(row)
        size += len(_written(row))
        if len(batch) >= PARQUET_ROWS or size >= PARQUET_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _flat(style: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the columns of `schema_of`. Raises: WireError where they cannot hold it."""
    if style == "pairs":
        return {**row, "input": _json(row["input"]), "output": _json(row["output"])}
    if style == "trl":
        turns = [*row["prompt"], *row["completion"]]
        if "tools" in row or any(turn.keys() != {"role", "content"} for turn in turns):
            raise WireError("tools in Parquet (ask for jsonl)")
    return row


def _json(value: Any) -> str:
    """Text stays as it is; anything else becomes JSON text."""
    return value if isinstance(value, str) else _written(value).decode()


def _written(value: Any) -> bytes:
    """As JSON, also what orjson refuses and the lake holds: huge integers, one level more."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
