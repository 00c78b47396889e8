"""`build_defs`: the whole graph with its resources; tests build fresh ones with overrides."""

import dagster as dg

from apprentice_pipeline.orchestration.assets import ASSETS
from apprentice_pipeline.orchestration.automation import JOBS, SCHEDULES, SENSORS
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.orchestration.stream import held_stream


class RefuseValues(dg.IOManager):
    """The default IO manager: refuses every value, so that no row reaches Dagster's storage."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Raises: Failure when an asset returned a value instead of a reference."""
        if obj is not None:
            raise dg.Failure(
                f"{context.get_identifier()} returned a value; assets return references only"
            )

    def load_input(self, context: dg.InputContext) -> None:
        """Raises: Failure always: stages read what the stage before left in the store."""
        raise dg.Failure(f"input {context.name!r} asks for a stored value; there is none")


def build_defs(**resource_overrides: object) -> dg.Definitions:
    """Assets, jobs, sensors and schedules over the process's own home, unless overridden."""
    resources = {
        "pipeline": Pipeline(),
        "stream": held_stream,
        "io_manager": RefuseValues(),
        **resource_overrides,
    }
    return dg.Definitions(
        assets=ASSETS,
        jobs=JOBS,
        sensors=SENSORS,
        schedules=SCHEDULES,
        resources=resources,
        executor=dg.in_process_executor,  # assets picked by hand hold their stream as a job does
    )
