"""What keeps a process's memory its own: keys and customer text live there, readable.

Belongs here: no core dumps, no reading by other processes of the same user. Does not: what is
sealed at rest (`vault`).
Promise: a process that called `keep_memory_private` leaves nothing on disk when it crashes, not
with a core-dump handler either. The kernel forgets this over an exec: each program calls it.
"""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """No core dumps of this process from now on; on Linux no tracing by its own user either.

    Where the system refuses, nothing changes: it is a second fence, not the first.
    """
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
