"""The resource of a run that makes or judges a model: its stream, held from first step to last.

Belongs here: whose run it is, and that no other run of the stream is under way meanwhile. Does
not: what the run does. Two runs at once would replace each other's records, which name the
corpus, the adapter and the score that belong together; the second is refused instead.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import dagster as dg

from apprentice_pipeline.orchestration.partitions import stream_of
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.store.workspace import Workspace

PARTITION = "dagster/partition"


@dataclass(frozen=True, slots=True)
class Stream:
    """One tenant's namespace, held by this run alone."""

    pipeline: Pipeline
    tenant: str
    namespace: str

    @property
    def workspace(self) -> Workspace:
        """The opened workspace."""
        return self.pipeline.workspace

    @property
    def names(self) -> tuple[str, str]:
        """(tenant, namespace)."""
        return self.tenant, self.namespace


@dg.resource(required_resource_keys={"pipeline"})
def held_stream(context: dg.InitResourceContext) -> Iterator[Stream]:
    """The stream of the run's partition. Raises: Failure while another run holds it."""
    pipeline: Pipeline = context.resources.pipeline
    run = context.run
    with ExitStack() as held:
        with pipeline.translated():
            tenant, namespace = stream_of(run.tags.get(PARTITION, "") if run else "")
            held.enter_context(pipeline.alone(tenant, namespace))
        yield Stream(pipeline, tenant, namespace)
