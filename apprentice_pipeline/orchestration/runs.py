"""Running jobs from outside Dagster's daemon, recorded in the home's one instance.

The command line and the demo use this: same jobs, same instance, same records as the UI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.errors import ApprenticeError, StoreError
from apprentice_pipeline.orchestration.automation import pair_threshold_sensor
from apprentice_pipeline.orchestration.definitions import build_defs
from apprentice_pipeline.orchestration.partitions import (
    outside,
    outside_text,
    stream_day_key,
    stream_key,
    stream_of,
)
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import adapter, readiness
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

RUN_KEY = "dagster/run_key"


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

    Pairs of a date without a partition are left out, and an alert says so. The base is looked for
    first, before any resample is paid for, and the stream is held from there to the end.
    Raises: BaseModelMissing; DistillError while another run has the stream; what else stopped it:
    too few pairs, the gate's refusal, a full disk.
    """
    workspace = pipeline.workspace
    local = workspace.config.local
    adapter.trainer_name(local, pipeline.base_model)
    resolve_base(pipeline.base_model or local.base_model, local.model_dir)
    with pipeline.alone(tenant, namespace), instance(workspace.home.dagster) as opened:
        stream = readiness.of_stream(workspace, tenant, namespace)
        opened.add_dynamic_partitions("streams", [stream_key(tenant, namespace)])
        left_out = outside(stream.unverified_days)
        if left_out:
            words = outside_text(left_out)
            workspace.state.add_alert(tenant, namespace, "dates", words, now_us=now_us())
        for day in [day for day, n in stream.unverified_days if (day, n) not in left_out]:
            execute(opened, pipeline, "verify_job", stream_day_key(tenant, namespace, day))
        readiness.require_ready(readiness.of_stream(workspace, tenant, namespace))
        execute(opened, pipeline, "distill_job", stream_key(tenant, namespace))
    return load(workspace, tenant, namespace, RegisteredModel)


def tick_threshold_sensor(pipeline: Pipeline, tenant: str, namespace: str) -> list[str]:
    """One tick of `pair_threshold_sensor`, then the runs it asked for in one stream; their jobs.

    What the daemon does, for processes that do not run one (the demo). What a run did already, or
    is doing, is not done again; other streams are left alone.
    """
    wanted = stream_key(tenant, namespace)
    with instance(pipeline.workspace.home.dagster) as opened:
        opened.add_dynamic_partitions("streams", [wanted])
        requests = [
            request
            for request in _asked_for(opened, pipeline)
            if request.partition_key and _stream_part(request.partition_key) == wanted
        ]
        jobs = []
        for request in requests:
            assert request.job_name
            if _under_way_or_done(opened, request.run_key):
                continue
            tags = {
                **request.tags,
                "dagster/sensor_name": pair_threshold_sensor.name,
                RUN_KEY: request.run_key or "",
            }
            execute(opened, pipeline, request.job_name, request.partition_key, tags)
            jobs.append(request.job_name)
        return jobs


def _asked_for(opened: dg.DagsterInstance, pipeline: Pipeline) -> Sequence[dg.RunRequest]:
    definitions = build_defs(pipeline=pipeline)
    with dg.build_sensor_context(
        instance=opened, definitions=definitions, resources={"pipeline": pipeline}
    ) as context:
        result = pair_threshold_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result.run_requests or ()


def _stream_part(partition_key: str) -> str:
    if isinstance(partition_key, dg.MultiPartitionKey):
        return partition_key.keys_by_dimension["stream"]
    return partition_key


def _under_way_or_done(opened: dg.DagsterInstance, run_key: str | None) -> bool:
    """A run that failed may be asked for again: whoever ticks by hand is there to see it."""
    states = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED]
    found = dg.RunsFilter(tags={RUN_KEY: run_key or ""}, statuses=states)
    return bool(opened.get_runs(found, limit=1))


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
