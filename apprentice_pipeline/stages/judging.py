"""The evaluator of a stream, with the embedding it may need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apprentice_pipeline.serving.embedding import embedder
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.evaluators import Evaluator, evaluator_for


def evaluator_of(workspace: Workspace, namespace: str, outputs: Sequence[Any]) -> Evaluator:
    """The declared task's evaluator, else one chosen by the stream's answers."""
    return evaluator_for(workspace.config.task(namespace), outputs, embed=embedder())
