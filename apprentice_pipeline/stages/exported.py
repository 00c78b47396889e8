"""Which export files hold a stream's pairs, so that an erasure reaches them.

Belongs here: remembering the files that this product wrote, deleting them. Does not: writing
them (`export`). What left over HTTP or standard output is not known here.
Promise: a file is deleted only while it is, by size and time, the one that was written; a changed
one is named as left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apprentice_pipeline.stages.results import work_folder, write_atomically
from apprentice_pipeline.store.workspace import Workspace

_NAME = "exports.jsonl"


@dataclass(frozen=True, slots=True)
class RemovedExports:
    """Paths that were deleted, and those still there because they were changed since."""

    deleted: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def remember(workspace: Workspace, tenant: str, namespace: str, file: Path) -> None:
    """Notes an export just written. Raises: OSError as the file system does."""
    path = file.absolute()
    found = path.stat()
    line = json.dumps([str(path), found.st_size, found.st_mtime_ns]) + "\n"
    known = work_folder(workspace, tenant, namespace) / _NAME
    descriptor = os.open(known, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(line)


def known(workspace: Workspace, tenant: str, namespace: str | None) -> list[str]:
    """The paths of the exports that `remove` would look at and that are there."""
    files = sorted((workspace.home.work / tenant).glob(f"{namespace or '*'}/{_NAME}"))
    return [path for each in files for path, _, _ in _newest(each) if os.path.lexists(path)]


def remove(workspace: Workspace, tenant: str, namespace: str | None) -> RemovedExports:
    """Deletes the exports of a namespace, or of all the tenant's. Repeating it is harmless."""
    deleted: list[str] = []
    left: list[str] = []
    for known in sorted((workspace.home.work / tenant).glob(f"{namespace or '*'}/{_NAME}")):
        kept = []
        for path, size, mtime_ns in _newest(known):
            if not os.path.lexists(path):
                continue
            if _deleted(path, size, mtime_ns):
                deleted.append(path)
            else:
                left.append(path)
                kept.append(json.dumps([path, size, mtime_ns]) + "\n")
        write_atomically(known, "".join(kept).encode())
    return RemovedExports(tuple(deleted), tuple(left))


def _newest(known: Path) -> Iterator[tuple[str, int, int]]:
    """The files noted, each as it was last written."""
    lines = known.read_text(encoding="utf-8").splitlines()
    yield from {line[0]: (line[0], line[1], line[2]) for line in map(json.loads, lines)}.values()


def _deleted(path: str, size: int, mtime_ns: int) -> bool:
    try:
        found = os.stat(path)
        if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
            return False
        os.unlink(path)
    except OSError:
        return False
    return True
