"""What a task's training is made of, and how soon it comes again, while it is coached.

Belongs here: the tail (requests the champion would not answer, or answered otherwise than the
teacher), its draw weights, the batch a retraining waits for. Does not: when coaching begins and
ends (`control`). A suspended task is coached too.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from apprentice_pipeline.config import Coaching
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.corpus.rows import CorpusRow

AGREES_AT = 0.5
"""A comparison below this score is one in which the champion was wrong."""


def training_weights(
    workspace: Workspace, tenant: str, namespace: str, rows: Sequence[CorpusRow]
) -> list[float]:
    """The rows' draw weights, mean 1: the tail's raised while the task is coached."""
    raised = _section(workspace, namespace).tail_oversampling
    if not is_coached(workspace, tenant, namespace):
        return oversampled(rows, (), 1.0)
    return oversampled(rows, tail(workspace, tenant, namespace), raised)


def oversampled(rows: Sequence[CorpusRow], tail: Container[str], times: float) -> list[float]:
    """The rows' weights, those whose pair is in `tail` `times` as heavy, scaled to a mean of 1."""
    from apprentice_pipeline.corpus.rows import weights  # `status` needs none of it

    raw = [
        weight * (times if row.pair_id in tail else 1.0)
        for row, weight in zip(rows, weights(rows), strict=True)
    ]
    mean = sum(raw) / len(raw) if raw else 1.0
    return [each / mean for each in raw]


def retraining_batch(workspace: Workspace, tenant: str, namespace: str) -> int:
    """New train pairs a retraining waits for: fewer while coached, where the task says so."""
    usual = workspace.config.local.fine_tune_batch_size
    coached = _section(workspace, namespace).retrain_every
    if coached is None or not is_coached(workspace, tenant, namespace):
        return usual
    return min(usual, coached)


def is_coached(workspace: Workspace, tenant: str, namespace: str) -> bool:
    """Whether the controller coaches the stream now, or has suspended it."""
    stored = workspace.state.control(tenant, namespace)
    if stored is None:
        return False
    from apprentice_pipeline.routing.champion import control_of  # `status` needs none of it

    control = control_of(stored)
    return bool(control.coaching) or control.phase == "suspended"


def tail(workspace: Workspace, tenant: str, namespace: str) -> frozenset[str]:
    """Pairs of the stream that a champion escalated or answered otherwise than the teacher."""
    found = workspace.lake.sql(tenant, _TAIL, namespace=namespace, agrees_at=AGREES_AT)
    return frozenset(row["pair_id"] for row in found)


def _section(workspace: Workspace, namespace: str) -> Coaching:
    task = workspace.config.task(namespace)
    return task.coaching if task else Coaching()


_TAIL = """
select distinct pair_id from comparisons
where namespace = $namespace and (confidence < tau or score < $agrees_at)
"""
