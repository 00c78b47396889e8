"""Which export files hold a stream's pairs, so that an erasure reaches them.

Belongs here: remembering the files that this product wrote, deleting them. Does not: writing
them (`export`). What left over HTTP or standard output is not known here.
Promise: an export is known from before it reads its first row: one that is being written while an
erasure is at work goes too, whatever it holds by then. A file is deleted only while it is, by size
and time, the one that was written; a changed one is named as left.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apprentice_pipeline.stages.results import work_folder, write_atomically
from apprentice_pipeline.store.workspace import Workspace

_NAME = "exports.jsonl"
_BEING_WRITTEN = -1
"""In place of the size of a draft: nobody else has a use for it, so that it goes as it is."""


@dataclass(frozen=True, slots=True)
class RemovedExports:
    """Paths that were deleted, and those still there because they were changed since."""

    deleted: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def begin(workspace: Workspace, tenant: str, namespace: str, draft: Path) -> None:
    """Notes an export that is about to read its first row. Raises: OSError."""
    _note(workspace, tenant, namespace, (str(draft.absolute()), _BEING_WRITTEN, 0))


def remember(workspace: Workspace, tenant: str, namespace: str, draft: Path, file: Path) -> None:
    """Notes an export just written, which is to be renamed to `file` now.

    Raises: FileNotFoundError when an erasure took it; OSError as the file system does.
    """
    found = draft.stat()
    noted = (str(file.absolute()), found.st_size, found.st_mtime_ns)
    _note(workspace, tenant, namespace, noted)


def known(workspace: Workspace, tenant: str, namespace: str | None) -> list[str]:
    """The paths of the finished exports that `remove` would look at and that are there."""
    return [
        path
        for each in _lists(workspace, tenant, namespace)
        for path, size, _ in _newest(each)
        if size != _BEING_WRITTEN and os.path.lexists(path)
    ]


def remove(workspace: Workspace, tenant: str, namespace: str | None) -> RemovedExports:
    """Deletes the exports of a namespace, or of all the tenant's. Repeating it is harmless."""
    deleted: list[str] = []
    left: list[str] = []
    for known in _lists(workspace, tenant, namespace):
        with _alone(known):
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


def _lists(workspace: Workspace, tenant: str, namespace: str | None) -> list[Path]:
    return sorted((workspace.home.work / tenant).glob(f"{namespace or '*'}/{_NAME}"))


def _note(workspace: Workspace, tenant: str, namespace: str, noted: tuple[str, int, int]) -> None:
    known = work_folder(workspace, tenant, namespace) / _NAME
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with _alone(known), os.fdopen(os.open(known, flags, 0o600), "w", encoding="utf-8") as out:
        out.write(json.dumps(noted) + "\n")


@contextmanager
def _alone(known: Path) -> Iterator[None]:
    """One at a time: what is noted while the list is written anew would be forgotten."""
    file = known.with_suffix(".lock")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _newest(known: Path) -> Iterator[tuple[str, int, int]]:
    """The files noted, each as it was last written."""
    lines = known.read_text(encoding="utf-8").splitlines()
    yield from {line[0]: (line[0], line[1], line[2]) for line in map(json.loads, lines)}.values()


def _deleted(path: str, size: int, mtime_ns: int) -> bool:
    try:
        found = os.stat(path)
        written = (size, mtime_ns)
        if size != _BEING_WRITTEN and (found.st_size, found.st_mtime_ns) != written:
            return False
        os.unlink(path)
    except OSError:
        return False
    return True
