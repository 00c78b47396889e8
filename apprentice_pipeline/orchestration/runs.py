"""Running jobs from outside Dagster's daemon, recorded in the home's one instance.

The command line and the demo use this: same jobs, same instance, same records as the UI.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from apprentice_pipeline.errors import ApprenticeError, StoreError
from apprentice_pipeline.orchestration.automation import pair_threshold_sensor
from apprentice_pipeline.orchestration.definitions import build_defs
from apprentice_pipeline.orchestration.partitions import stream_day_key, stream_key, stream_of
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.stages import readiness
from apprentice_pipeline.stages.results import (
    RegisteredModel,
    ScoredAdapter,
    load,
    load_if_any,
    write_atomically,
)
from apprentice_pipeline.stages.score import refusal

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Progress bars speak for a run in the foreground; every event is in the instance all the same."""


def prepare_instance(folder: Path) -> Path:
    """Makes `folder` a DAGSTER_HOME (SQLite, no telemetry) if it is not one; returns it."""
    settings = folder / "dagster.yaml"
    if not settings.exists():
        write_atomically(settings, yaml.safe_dump(_instance_settings(folder)).encode())
    return folder


def _instance_settings(folder: Path) -> dict[str, Any]:
    return {
        "telemetry": {"enabled": False},
        "storage": {"sqlite": {"base_dir": str(folder)}},
        "nux": {"enabled": False},
    }


@contextmanager
def instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance under the home."""
    with dg.DagsterInstance.from_config(str(prepare_instance(folder))) as opened:
        yield opened


def distill(pipeline: Pipeline, tenant: str, namespace: str) -> RegisteredModel:
    """Verifies what is pending, then runs `distill_job` for the stream, as Dagster runs.

    Raises: the ApprenticeError that stopped it: too few pairs, the gate's refusal, a full disk.
    """
    workspace = pipeline.workspace
    with instance(workspace.home.dagster) as opened:
        stream = readiness.of_stream(workspace, tenant, namespace)
        opened.add_dynamic_partitions("streams", [stream_key(tenant, namespace)])
        for day, _ in stream.unverified_days:
            key = stream_day_key(tenant, namespace, day)
            execute(opened, pipeline, "verify_job", key)
        readiness.require_ready(readiness.of_stream(workspace, tenant, namespace))
        execute(opened, pipeline, "distill_job", stream_key(tenant, namespace))
    return load(workspace, tenant, namespace, RegisteredModel)


def tick_threshold_sensor(pipeline: Pipeline) -> list[str]:
    """One tick of `pair_threshold_sensor`, then the runs it asked for; their job names.

    What the daemon does, for processes that do not run one (the demo).
    """
    with instance(pipeline.workspace.home.dagster) as opened:
        definitions = build_defs(pipeline=pipeline)
        with dg.build_sensor_context(
            instance=opened, definitions=definitions, resources={"pipeline": pipeline}
        ) as context:
            result = pair_threshold_sensor(context)
        assert isinstance(result, dg.SensorResult)
        for addition in result.dynamic_partitions_requests or ():
            opened.add_dynamic_partitions("streams", list(addition.partition_keys))
        for request in result.run_requests or ():
            assert request.job_name
            tags = {**request.tags, "dagster/sensor_name": pair_threshold_sensor.name}
            execute(opened, pipeline, request.job_name, request.partition_key, tags)
        return [request.job_name or "" for request in result.run_requests or ()]


def execute(
    opened: dg.DagsterInstance,
    pipeline: Pipeline,
    job_name: str,
    partition_key: str | None,
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """One run of a job for one partition. Raises: what stopped it, as an error of ours."""
    pipeline.failure = None
    job = build_defs(pipeline=pipeline).resolve_job_def(job_name)
    result = job.execute_in_process(
        instance=opened,
        partition_key=partition_key,
        tags=tags,
        run_config=QUIET,
        raise_on_error=False,
    )
    if not result.success:
        raise _cause(pipeline, partition_key, result)
    return result


def _cause(
    pipeline: Pipeline, partition_key: str | None, result: dg.ExecuteInProcessResult
) -> ApprenticeError:
    if pipeline.failure is not None:
        return pipeline.failure
    if partition_key and "|" not in partition_key:
        scored = load_if_any(pipeline.workspace, *stream_of(partition_key), ScoredAdapter)
        if scored is not None and not scored.passed:
            return refusal(scored)
    return StoreError(
        f"run {result.run_id} of {result.job_def.name} failed",
        remedy="open it in Dagster (`apprentice dev`) to see the failing step",
    )
