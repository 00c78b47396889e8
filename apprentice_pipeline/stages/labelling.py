"""A person's label of a pair: stored in the lake, newest wins."""

from __future__ import annotations

from typing import Any

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import Feedback, now_us
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.workspace import Workspace

ACTIONS = ("approve", "reject", "edit")


def record_feedback(
    workspace: Workspace, tenant: str, pair_id: str, *, action: str, edit: Any = None
) -> Feedback:
    """Appends the label; an edit's output is sealed. Raises: UsageError for an unknown pair."""
    if action not in ACTIONS:
        raise UsageError(f"{action!r} is no label", remedy=f"one of {', '.join(ACTIONS)}")
    namespace = namespace_of(workspace, tenant, pair_id)
    label = Feedback(pair_id, namespace, now_us(), action, edit)
    append_records(workspace, tenant, [label])
    return label


def namespace_of(workspace: Workspace, tenant: str, pair_id: str) -> str:
    """The namespace a pair of the tenant is in. Raises: UsageError when there is no such pair."""
    rows = workspace.lake.sql(
        tenant, "select namespace from captures where pair_id = $pair_id", pair_id=pair_id
    )
    if not rows:
        raise UsageError(
            f"no pair {pair_id}",
            remedy="ids come in the x-apprentice-pair-id header; new pairs take seconds to drain",
        )
    return str(rows[0]["namespace"])
