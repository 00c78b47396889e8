"""Which streams a tenant has, and the refusal of one it has not.

Belongs here: names only. Does not: what is in a stream (`readiness`, `report`).
A stream is known once it is declared as a task, holds captures, or has a key of its own.
"""

from __future__ import annotations

from apprentice_pipeline.errors import UnknownStream
from apprentice_pipeline.store.workspace import Workspace


def known_streams(workspace: Workspace, tenant: str) -> list[str]:
    """The names of the tenant's streams, sorted."""
    declared = {task.name for task in workspace.config.tasks}
    keyed = {
        key.namespace
        for key in workspace.state.list_keys()
        if key.tenant == tenant and key.namespace
    }
    return sorted(declared | keyed | set(workspace.lake.namespaces(tenant)))


def require_known(workspace: Workspace, tenant: str, namespace: str) -> None:
    """Refuses a stream that does not exist while others do; on a fresh home any may come to be.

    Raises: UnknownStream, with the names of those that exist.
    """
    known = known_streams(workspace, tenant)
    if known and namespace not in known:
        raise UnknownStream(
            f"unknown: {tenant}.{namespace}; {tenant} has {', '.join(known)}",
            remedy="check the name; a stream comes to be with its first captured call",
        )
