"""Jobs, sensors and schedules: when the assets run.

Belongs here: asking `stages.readiness` and turning its word into run requests. Does not:
deciding what is ready. A run key names the evidence that asked for the run, so that one state
of the data asks once, however often a sensor looks.
"""

from collections.abc import Iterator

import dagster as dg

from apprentice_pipeline.control.reevaluation import LEAST_ROWS
from apprentice_pipeline.orchestration import assets, metadata
from apprentice_pipeline.orchestration.partitions import (
    STREAMS,
    outside,
    outside_text,
    stream_day_key,
    stream_key,
)
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.orchestration.stream import Stream
from apprentice_pipeline.stages import maintenance, readiness, reevaluation

IN_PROCESS = dg.in_process_executor

verify_job = dg.define_asset_job(
    "verify_job",
    selection=[assets.captured_pairs, assets.verified_pairs],
    executor_def=IN_PROCESS,
    description="Drains the spools and verifies one day of a stream; backfill it over any dates.",
)
distill_job = dg.define_asset_job(
    "distill_job",
    selection=[
        assets.holdout_split,
        assets.lora_adapter,
        assets.kscore_eval,
        assets.signed_artifact,
        assets.registered_model,
    ],
    executor_def=IN_PROCESS,
    description="Split, train, K-score, sign and register one stream.",
)


@dg.op
def reevaluate_champion(context: dg.OpExecutionContext, stream: dg.ResourceParam[Stream]) -> None:
    """The champion's own artifact on the holdout rows captured since the alarm."""
    with stream.pipeline.translated():
        done = reevaluation.reevaluate(
            stream.workspace, *stream.names, progress=stream.pipeline.progress
        )
    context.log_event(
        dg.AssetObservation(
            asset_key=assets.registered_model.key,
            partition=context.partition_key,
            metadata=metadata.of_reevaluation(done),
        )
    )


@dg.job(name="evaluate_job", partitions_def=STREAMS, executor_def=IN_PROCESS)
def evaluate_job() -> None:
    """Judges a stream's standing alarm: did the champion really become worse?"""
    reevaluate_champion()


@dg.op
def compact(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Compacts and vacuums every tenant's tables, applies retention; not if another is at it."""
    with pipeline.translated():
        done = maintenance.compact_in_turn(pipeline.workspace)
    if done is None:
        context.add_output_metadata({"left out": "a round of the same is under way elsewhere"})
        return
    context.add_output_metadata({"tables": done.tables, "expired_pairs": done.expired_pairs})


@dg.job(executor_def=IN_PROCESS)
def compaction_job() -> None:
    """Keeps the lake's files few and its retention promises kept."""
    compact()


@dg.sensor(
    jobs=[verify_job, distill_job],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def pair_threshold_sensor(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult:
    """Verifies what arrived once a stream nears its threshold; distills it once it is ready."""
    found = readiness.all_streams(pipeline.workspace)
    known = set(context.instance.get_dynamic_partitions("streams"))
    fresh = [key for s in found if (key := stream_key(s.tenant, s.namespace)) not in known]
    requests = [request for stream in found for request in _requests(stream)]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else _why_not(found),
        dynamic_partitions_requests=[STREAMS.build_add_request(fresh)] if fresh else [],
    )


def _requests(stream: readiness.Readiness) -> Iterator[dg.RunRequest]:
    key = stream_key(stream.tenant, stream.namespace)
    if stream.ready:
        yield dg.RunRequest(
            run_key=f"distill:{key}:{stream.evidence}",
            job_name="distill_job",
            partition_key=key,
            tags={"apprentice/why": "pair threshold"},
        )
    elif stream.worth_verifying:
        for day, pending in _days(stream):
            yield dg.RunRequest(
                run_key=f"verify:{key}:{day}:{stream.pairs}:{pending}",
                job_name="verify_job",
                partition_key=stream_day_key(stream.tenant, stream.namespace, day),
                tags={"apprentice/why": "pair threshold"},
            )


def _days(stream: readiness.Readiness) -> list[tuple[str, int]]:
    """The days to verify that a partition stands for, with their pending pairs."""
    without = set(outside(stream.unverified_days))
    return [each for each in stream.unverified_days if each not in without]


def _why_not(found: list[readiness.Readiness]) -> str:
    if not found:
        return "no stream has captured a pair yet"
    words = [
        [f"{stream_key(s.tenant, s.namespace)}: {s.binding}", outside_text(s.unverified_days)]
        for s in found
    ]
    return "; ".join(", ".join(filter(None, each)) for each in words)


@dg.sensor(
    jobs=[evaluate_job, distill_job],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def drift_sensor(
    _context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult:
    """An alarm asks for one re-evaluation of the champion once there are fresh holdout rows, with
    each batch of them until it is judged; one that is confirmed, for a retraining."""
    alarms = readiness.drift_alarms(pipeline.workspace)
    requests = [request for alarm in alarms for request in _answers(alarm)]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else _what_alarms_wait_for(alarms),
    )


def _answers(alarm: readiness.StandingAlarm) -> Iterator[dg.RunRequest]:
    key = stream_key(alarm.tenant, alarm.namespace)
    if alarm.confirmed:
        job, evidence = "distill_job", alarm.evidence
    elif alarm.fresh >= LEAST_ROWS:
        job, evidence = "evaluate_job", str(alarm.fresh // LEAST_ROWS)
    else:
        return
    yield dg.RunRequest(
        run_key=f"{job}:{key}:{alarm.at_us}:{evidence}",
        job_name=job,
        partition_key=key,
        tags={"apprentice/why": f"alarm: {alarm.kind}"},
    )


def _what_alarms_wait_for(alarms: list[readiness.StandingAlarm]) -> str:
    if not alarms:
        return "no alarm stands"
    return "; ".join(
        f"{stream_key(a.tenant, a.namespace)}: {a.kind}, {a.fresh} of {LEAST_ROWS} fresh holdout "
        "rows to judge it by"
        for a in alarms
    )


@dg.schedule(
    job=verify_job, cron_schedule="15 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
def verification_schedule(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> list[dg.RunRequest]:
    """Every hour: the days that hold pairs without a verdict, as of the hour it is due."""
    moment = context.scheduled_execution_time
    known = set(context.instance.get_dynamic_partitions("streams"))
    return [
        dg.RunRequest(
            run_key=f"{moment:%Y-%m-%dT%H}:{stream_key(s.tenant, s.namespace)}:{day}",
            partition_key=stream_day_key(s.tenant, s.namespace, day),
        )
        for s in readiness.all_streams(pipeline.workspace)
        if stream_key(s.tenant, s.namespace) in known
        for day, _ in _days(s)
        if day <= f"{moment:%Y-%m-%d}"  # a tick that runs late knows no partition after its hour
    ]


@dg.schedule(
    job=compaction_job, cron_schedule="40 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
def compaction_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Every night."""
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}")


@dg.schedule(
    job=distill_job, cron_schedule="20 4 * * 1", default_status=dg.DefaultScheduleStatus.RUNNING
)
def retrain_schedule(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> list[dg.RunRequest]:
    """Every week: the streams with enough new pairs since their last training."""
    week = f"{context.scheduled_execution_time:%G-W%V}"
    known = set(context.instance.get_dynamic_partitions("streams"))
    return [
        dg.RunRequest(run_key=f"{week}:{key}", partition_key=key)
        for stream in readiness.all_streams(pipeline.workspace)
        if (key := stream_key(stream.tenant, stream.namespace)) in known and stream.ready
    ]


JOBS = (verify_job, distill_job, compaction_job)
SCHEDULES = (verification_schedule, compaction_schedule, retrain_schedule)
