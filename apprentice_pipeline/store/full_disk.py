"""Whether a foreign library's error means that a disk has no room.

Belongs here: reading the codes of SQLite and of the operating system, anywhere in an error's
chain of causes. Does not: raising; whoever stands at the edge says what was being written.
Promise: only codes are read, never messages, which may carry what was being stored.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from typing import Final

SQLITE_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)
"""What SQLite says on a full disk: the last where not even its shared index fits any more."""

ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def means_full(error: BaseException) -> bool:
    """Whether the error, or what it was raised from, is a disk or a quota without room."""
    return any(_is_full(each) for each in _chain(error))


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in ERRNOS
    return getattr(error, "sqlite_errorcode", None) in SQLITE_CODES


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, and where a library kept the driver's error beside them."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        linked = (each.__cause__, each.__context__, getattr(each, "orig", None))
        waiting += [cause for cause in linked if isinstance(cause, BaseException)]
