"""Sealed rows to the Arrow tables that the lake appends.

Belongs here: columns and types. Does not: sealing, storage.
Promise: a row that does not fit its table is told apart from those that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

import orjson

from apprentice_pipeline import records
from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.store.sealing import (
    CAPTURES,
    COMPARISONS,
    FEEDBACK,
    VERDICTS,
    Record,
    SealedRow,
    plain_row,
    seal,
)
from apprentice_pipeline.vault import Vault

if TYPE_CHECKING:
    import pyarrow as pa

_SCHEMAS: Final[dict[str, Callable[[], pa.Schema]]] = {
    CAPTURES: records.captures_schema,
    VERDICTS: records.verdicts_schema,
    COMPARISONS: records.comparisons_schema,
    FEEDBACK: records.feedback_schema,
}


_SEALED: Final = {
    CAPTURES: {"input": "first", "output": "second", "dedup_key": "dedup_key"},
    FEEDBACK: {"edit": "second"},
}
"""Columns that are not among a row's facts, by the field of a `SealedRow` that they come from."""


def schema_of(table: str) -> pa.Schema:
    """The Arrow schema of a lake table. Raises: StoreError when there is no such table."""
    try:
        return _SCHEMAS[table]()
    except KeyError:
        raise StoreError(f"the lake has no table {table!r}") from None


def arrow_rows(table: str, rows: Sequence[SealedRow]) -> pa.Table:
    """`rows` with the schema of `table`. Raises: StoreError when one does not fit."""
    import pyarrow as pa

    schema, sealed = schema_of(table), _SEALED.get(table, {})
    try:
        facts: list[dict[str, Any]] = orjson.loads(b"[%b]" % b",".join(row.facts for row in rows))
        if table == CAPTURES:
            for each in facts:
                each.setdefault("ending", None)  # a spool that was written before there was one
        if len(facts) != len(rows) or any(len(each) + len(sealed) != len(schema) for each in facts):
            raise ValueError("missing or unknown columns")
        columns = [
            map(attrgetter(sealed[name]), rows) if name in sealed else map(itemgetter(name), facts)
            for name in schema.names
        ]
        arrays = [
            pa.array(list(column), type=field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)
    except (pa.ArrowException, LookupError, ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"a row does not fit table {table!r} ({type(error).__name__})") from None


def fitting(table: str, rows: Sequence[SealedRow]) -> tuple[pa.Table, list[int]]:
    """The rows that fit, as one table, and the positions of those that do not."""
    try:
        return arrow_rows(table, rows), []
    except StoreError:
        misfits = [at for at, row in enumerate(rows) if not _fits(table, row)]
        bad = set(misfits)
        return arrow_rows(table, [r for at, r in enumerate(rows) if at not in bad]), misfits


def record_rows(vault: Vault, tenant: str, of: Iterable[Record]) -> dict[str, pa.Table]:
    """Records sealed and sorted into tables, for writers that need no spool (imports, stages).

    Raises: StoreError, VaultError.
    """
    by_table: dict[str, list[SealedRow]] = {}
    for record in of:
        row = seal(vault, plain_row(record, tenant))
        by_table.setdefault(row.table, []).append(row)
    return {table: arrow_rows(table, rows) for table, rows in by_table.items()}


def _fits(table: str, row: SealedRow) -> bool:
    try:
        arrow_rows(table, [row])
    except StoreError:
        return False
    return True
