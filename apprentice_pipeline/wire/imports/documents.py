"""The bytes of an export into records: JSON lines, a JSON array, JSON documents, CSV.

Belongs here: where one record ends and the next begins. Does not: what is in them.
Promises: memory holds one record (and, of a document that wraps its records in an object, that
document); a record that is malformed is None under its number and ends nothing but itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

Numbered = tuple[int, dict[str, Any] | None]
FORMS: Final = ("lines", "array", "documents", "csv")
_MARKS: Final = re.compile(rb'["\\{}\[\]]')
_BOM: Final = b"\xef\xbb\xbf"
_WRAPPERS: Final = ("data", "observations", "traces", "requests", "logs")
_LONGEST_FIELD: Final = 2**31 - 1


def form_of(suffix: str, head: bytes) -> str:
    """The form of a file, by its suffix (without `.gz`), else by how it begins."""
    if suffix in {".jsonl", ".ndjson"}:
        return "lines"
    if suffix == ".csv":
        return "csv"
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return "array"
    first, ended, rest = text.partition(b"\n")
    alone = _object(first)
    if alone is None:
        return "lines" if ended and _object(rest.partition(b"\n")[0]) else "documents"
    return "documents" if not rest.strip() and _wrapped(alone) is not None else "lines"


def records(form: str, chunks: Iterable[bytes]) -> Iterator[Numbered]:
    """The records with their numbers, from 1: the line's in JSON lines, else the record's."""
    if form == "lines":
        return _line_records(_lines(chunks))
    if form == "csv":
        return _csv_records(_lines(chunks))
    return _document_records(_values(chunks, depth=1 if form == "array" else 0))


def _line_records(lines: Iterable[bytes]) -> Iterator[Numbered]:
    for number, raw in enumerate(lines, 1):
        text = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
        if text:
            yield number, _object(text)


def _csv_records(lines: Iterable[bytes]) -> Iterator[Numbered]:
    csv.field_size_limit(_LONGEST_FIELD)
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    rows = csv.reader(text.removeprefix("\ufeff") for text in texts)
    names = next(rows, [])
    for number, row in enumerate(rows, 1):
        sound = len(row) == len(names) and all(map(_utf8, row))
        yield number, dict(zip(names, row, strict=True)) if sound else None


def _document_records(values: Iterable[bytes]) -> Iterator[Numbered]:
    number = 0
    for raw in values:
        found = _object(raw)
        inner = None if found is None else _wrapped(found)
        for item in [found] if inner is None else inner:
            number += 1
            yield number, item if isinstance(item, dict) else None


def _wrapped(value: dict[str, Any]) -> list[Any] | None:
    """The records of an API's page, None where the document is a record itself."""
    for name in _WRAPPERS:
        if isinstance(value.get(name), list) and not {"id", "choices", "info"} & value.keys():
            return list(value[name])
    return None


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*waiting, line, b"\n"])
            waiting = []
        if rest:
            waiting.append(rest)
    if waiting:
        yield b"".join(waiting)


def _values(chunks: Iterable[bytes], *, depth: int) -> Iterator[bytes]:
    """The JSON values at `depth` (0: one after another, 1: elements of an array), as bytes.

    Objects are found by their braces, strings skipped; whatever stands between two values and is
    neither a comma nor blank is a malformed value of its own.
    """
    held, at, level, quoted, skip = b"", 0, 0, False, -1
    start: int | None = None
    loose = 0
    for chunk in chunks:
        keep = loose if start is None else start
        held, at, skip = held[keep:] + chunk, at - keep, skip - keep
        start, loose = (None, 0) if start is None else (0, loose)
        for mark in _MARKS.finditer(held, at):
            place, byte = mark.start(), held[mark.start() : mark.end()]
            if place <= skip:
                continue
            if byte == b"\\":
                skip = place + 1 if quoted else skip
            elif byte == b'"':
                quoted = not quoted
            elif not quoted and byte in b"{[":
                if level == depth and start is None:
                    yield from _stray(held[loose:place], opening=level == 0)
                    start = place
                elif level < depth:
                    loose = place + 1
                level += 1
            elif not quoted:
                level -= 1
                if level == depth and start is not None:
                    yield held[start : place + 1]
                    start, loose = None, place + 1
                elif level < depth:
                    yield from _stray(held[loose:place], opening=False)
                    loose, level = place + 1, max(level, 0)
        at = len(held)
    if start is not None:  # the file ends within a value
        yield held[start:]
    else:
        yield from _stray(held[loose:], opening=level == 0)


def _stray(between: bytes, *, opening: bool) -> Iterator[bytes]:
    """Values between two objects: scalars of an array, or what a broken file left."""
    text = between.removeprefix(_BOM) if opening else between
    yield from (piece for piece in text.replace(b",", b"\n").split() if piece != b"]")
