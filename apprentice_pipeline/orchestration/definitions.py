"""`build_defs`: the whole graph with its resources; tests build fresh ones with overrides."""

import warnings

import dagster as dg

from apprentice_pipeline.orchestration.assets import ASSETS
from apprentice_pipeline.orchestration.automation import (
    JOBS,
    SCHEDULES,
    distill_job,
    drift_sensor,
    evaluate_job,
    pair_threshold_sensor,
)
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
    given = {
        "pipeline": Pipeline(),
        "stream": held_stream,
        "io_manager": dg.IOManagerDefinition.hardcoded_io_manager(RefuseValues()),
        **resource_overrides,
    }
    resources = {
        name: each
        if isinstance(each, dg.ResourceDefinition)
        else dg.ResourceDefinition.hardcoded_resource(each)
        for name, each in given.items()
    }
    evaluation = evaluate_job.with_top_level_resources(resources)
    with warnings.catch_warnings():  # a sensor that is given its jobs anew names a beta parameter
        warnings.simplefilter("ignore", dg.BetaWarning)
        on_drift = drift_sensor.with_updated_jobs([evaluation, distill_job])
    return dg.Definitions(
        assets=ASSETS,
        jobs=[*JOBS, evaluation],
        sensors=[pair_threshold_sensor, on_drift],
        schedules=SCHEDULES,
        resources=resources,
        executor=dg.in_process_executor,  # assets picked by hand hold their stream as a job does
    )
