"""Manners of those that stand in for a provider and for clients.

Belongs here: how they share the machine with whoever is measured. Does not: what they do.
"""

from __future__ import annotations

import os


def stand_aside() -> None:
    """From now on this process interrupts no other when it is woken (Linux, SCHED_BATCH).

    A provider and clients are elsewhere: here they would have a server put off in the middle of
    each call, by every byte that it sends. Whoever is measured, it is the same for all.
    """
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
