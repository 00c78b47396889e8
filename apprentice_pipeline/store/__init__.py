"""Durable storage: what must survive a crash, and nothing that decides anything.

    sealing    records to sealed bytes and back
    rows       records to the Arrow rows of the lake
    arrivals   what has come to a spool's writer, safe but unread
    spool      a process's rows on their way to the lake, group commit
    drain      spools into the lake, exactly once
    lake       Delta tables, one root a tenant
    pairs      what was captured, joined with what is known of it
    state      keys, champions, control, money, jobs: what processes must agree on
    erasure    removal from spools, lake and keys
    workspace  all of it, opened from settings

Nothing is re-exported, so that importing one module costs only that module.
"""
