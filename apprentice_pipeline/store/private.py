"""A database file of our own, readable by its owner only.

Belongs here: making it before SQLite would, with the process's umask. Does not: opening it.
Promise: a file that is there is not opened. SQLite's locks belong to the process: whoever closes
any descriptor of the file lets go of the locks of every connection that the process has to it. The
next process that leaves the database then takes itself for the last, and deletes the write-ahead
log under those that go on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_private(file: Path) -> None:
    """Makes an empty file unless there is one. Raises: OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, flags, 0o600))
