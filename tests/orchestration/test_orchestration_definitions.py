"""The graph: its names, what asks for its runs, and that loading it touches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.orchestration import automation
from apprentice_pipeline.orchestration.definitions import RefuseValues, build_defs
from apprentice_pipeline.orchestration.partitions import stream_day_key, stream_of
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.orchestration.runs import execute, instance
from apprentice_pipeline.records import date_of
from tests.conftest import HOUR_US

REPOSITORY = Path(__file__).parents[2]
DAY_US = 86_400_000_000
ASSETS = {
    "captured_pairs",
    "verified_pairs",
    "holdout_split",
    "lora_adapter",
    "kscore_eval",
    "signed_artifact",
    "registered_model",
}
THRESHOLD = """
distill: {threshold: 60, holdout_fraction: 0.2}
kscore: {min_holdout: 10}
verify: {fraction: 0}
"""


@pytest.fixture
def pipeline(home: Any) -> Iterator[Pipeline]:
    home.configure(THRESHOLD)
    with home.pipeline() as opened:
        yield opened


@pytest.fixture
def opened(pipeline: Pipeline) -> Iterator[dg.DagsterInstance]:
    with instance(pipeline.workspace.home.dagster) as opened:
        yield opened


def look(pipeline: Pipeline, opened: dg.DagsterInstance) -> dg.SensorResult:
    """One look of the threshold sensor, its runs not started."""
    with dg.build_sensor_context(
        instance=opened,
        definitions=build_defs(pipeline=pipeline),
        resources={"pipeline": pipeline},
    ) as context:
        result = automation.pair_threshold_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def run_keys(result: dg.SensorResult) -> list[tuple[str | None, str | None]]:
    return [(request.job_name, request.run_key) for request in result.run_requests or ()]


def test_the_graph_has_the_contract_s_names() -> None:
    defs = build_defs()
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == ASSETS
    assert {sensor.name for sensor in defs.sensors or ()} == {
        "pair_threshold_sensor",
        "drift_sensor",
    }
    assert {schedule.name for schedule in defs.schedules or ()} == {
        "verification_schedule",
        "compaction_schedule",
        "retrain_schedule",
    }
    assert "distill_job" in {job.name for job in defs.jobs or ()}
    downstream = [
        key.to_user_string()
        for key in graph.toposorted_asset_keys
        if graph.get(key).partitions_def is automation.STREAMS
    ]
    assert downstream == [
        "holdout_split",
        "lora_adapter",
        "kscore_eval",
        "signed_artifact",
        "registered_model",
    ]


def test_every_asset_is_described_and_its_blocking_checks_stand() -> None:
    graph = build_defs().resolve_asset_graph()
    assert all(graph.get(key).description for key in graph.get_all_asset_keys())
    checks = {
        (key.asset_key.to_user_string(), key.name): graph.get_check_spec(key).blocking
        for key in graph.asset_check_keys
    }
    assert checks == {
        ("holdout_split", "no_leakage"): True,
        ("holdout_split", "coherence"): True,
        ("kscore_eval", "kscore_gate"): True,
        ("signed_artifact", "signature_verifies"): True,
    }


def test_loading_the_definitions_reads_no_environment_and_touches_no_disk(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
        "APPRENTICE_HOME": str(tmp_path / "home"),
        "APPRENTICE_CONFIG": str(tmp_path / "absent.yaml"),
        "APPRENTICE_MASTER_KEY": "not a key",
    }
    program = "from apprentice_pipeline.definitions import defs; print(defs.assets is not None)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_dagster_itself_finds_the_definitions_valid(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        cwd=REPOSITORY,
        env=os.environ
        | {"DAGSTER_HOME": str(tmp_path / "dagster"), "APPRENTICE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("key", ["nodot", ".tickets", "default.", ""])
def test_a_partition_key_that_names_no_stream_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=r"is not tenant\.namespace"):
        stream_of(key)


def test_the_sensor_waits_for_the_first_pair(
    pipeline: Pipeline, opened: dg.DagsterInstance
) -> None:
    result = look(pipeline, opened)
    assert not result.run_requests
    assert result.skip_reason is not None
    assert "no stream has captured a pair yet" in str(result.skip_reason.skip_message)


def test_the_sensor_says_how_far_a_stream_is_from_its_threshold(
    pipeline: Pipeline, opened: dg.DagsterInstance, captured: Callable[..., Any]
) -> None:
    captured(pipeline.workspace, 20)
    result = look(pipeline, opened)
    assert not result.run_requests
    assert result.skip_reason is not None
    assert "default.tickets: train pairs 0 of 60" in str(result.skip_reason.skip_message)


def test_the_sensor_asks_for_verification_then_training_and_for_each_once(
    pipeline: Pipeline, opened: dg.DagsterInstance, captured: Callable[..., Any]
) -> None:
    """One state of the data has one run key, however often the sensor looks."""
    captured(pipeline.workspace, 60)
    captured(pipeline.workspace, 40, skip=60, ago_us=HOUR_US + DAY_US)
    first, second = look(pipeline, opened), look(pipeline, opened)
    assert [job for job, _ in run_keys(first)] == ["verify_job", "verify_job"]
    assert run_keys(first) == run_keys(second)
    (addition,) = first.dynamic_partitions_requests or ()
    assert (addition.partitions_def_name, list(addition.partition_keys)) == (
        "streams",
        ["default.tickets"],
    )
    opened.add_dynamic_partitions("streams", ["default.tickets"])
    for request in first.run_requests or ():
        assert execute(opened, pipeline, "verify_job", request.partition_key).success
    third, fourth = look(pipeline, opened), look(pipeline, opened)
    assert [job for job, _ in run_keys(third)] == ["distill_job"]
    assert run_keys(third) == run_keys(fourth)
    assert not third.dynamic_partitions_requests


def test_two_days_of_a_stream_are_two_partitions_and_none_is_verified_twice(
    pipeline: Pipeline, opened: dg.DagsterInstance, captured: Callable[..., Any]
) -> None:
    exchanges = [
        *captured(pipeline.workspace, 12, ago_us=2 * DAY_US),
        *captured(pipeline.workspace, 8, skip=12, ago_us=DAY_US),
    ]
    days = sorted({date_of(each.created_at_us) for each in exchanges})
    opened.add_dynamic_partitions("streams", ["default.tickets"])
    rows = {}
    for day in days:
        key = stream_day_key("default", "tickets", day)
        result = execute(opened, pipeline, "verify_job", key)
        for asset in ("captured_pairs", "verified_pairs"):
            (made,) = result.asset_materializations_for_node(asset)
            rows[asset, day] = made.metadata["dagster/row_count"].value
    assert [rows["captured_pairs", day] for day in days] == [12, 8]
    assert [rows["verified_pairs", day] for day in days] == [12, 8]
    found = opened.get_materialized_partitions(dg.AssetKey("verified_pairs"))
    assert found == {str(stream_day_key("default", "tickets", day)) for day in days}
    verdicts = pipeline.workspace.lake.sql(
        "default",
        "select count(*)::bigint as n, count(distinct pair_id)::bigint as d from verdicts",
    )
    assert verdicts == [{"n": 20, "d": 20}]
    again = execute(opened, pipeline, "verify_job", stream_day_key("default", "tickets", days[0]))
    (made,) = again.asset_materializations_for_node("verified_pairs")
    assert made.metadata["dagster/row_count"].value == 0


def test_the_schedules_ask_for_what_is_due(
    pipeline: Pipeline, opened: dg.DagsterInstance, captured: Callable[..., Any]
) -> None:
    exchanges = captured(pipeline.workspace, 100)
    days = {date_of(each.created_at_us) for each in exchanges}
    moment = datetime.now(UTC).replace(minute=20)
    repository = build_defs(pipeline=pipeline).get_repository_def()

    def due(schedule: Any) -> list[dg.RunRequest]:
        with dg.build_schedule_context(
            instance=opened,
            scheduled_execution_time=moment,
            resources={"pipeline": pipeline},
            repository_def=repository,
        ) as context:
            return list(schedule.evaluate_tick(context).run_requests)

    assert due(automation.verification_schedule) == []  # a stream the instance does not know yet
    opened.add_dynamic_partitions("streams", ["default.tickets"])
    requests = due(automation.verification_schedule)
    assert {str(request.partition_key) for request in requests} == {
        str(stream_day_key("default", "tickets", day)) for day in days
    }
    assert len({request.run_key for request in requests}) == len(days)
    assert due(automation.retrain_schedule) == []
    for day in days:
        execute(opened, pipeline, "verify_job", stream_day_key("default", "tickets", day))
    assert due(automation.verification_schedule) == []
    (retraining,) = due(automation.retrain_schedule)
    assert (retraining.run_key, retraining.partition_key) == (
        f"{moment:%G-W%V}:default.tickets",
        "default.tickets",
    )
    (compaction,) = due(automation.compaction_schedule)
    assert compaction.run_key == f"{moment:%Y-%m-%d}"


def test_compaction_runs_as_a_job_and_applies_retention(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure("capture: {retention_days: 10}")
    with home.pipeline() as pipeline, instance(pipeline.workspace.home.dagster) as opened:
        for part in range(3):
            captured(pipeline.workspace, 4, skip=4 * part)
        captured(pipeline.workspace, 5, skip=20, ago_us=11 * DAY_US)
        result = execute(opened, pipeline, "compaction_job", None)
        assert result.success
        rows = pipeline.workspace.lake.sql("default", "select count(*)::bigint as n from captures")
    assert rows == [{"n": 12}]


def test_the_drift_sensor_is_quiet_without_a_champion(
    pipeline: Pipeline, opened: dg.DagsterInstance
) -> None:
    with dg.build_sensor_context(instance=opened, resources={"pipeline": pipeline}) as context:
        result = automation.drift_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests


def test_an_asset_that_returned_a_value_would_be_refused() -> None:
    """Rows have no way into Dagster's storage."""
    manager = RefuseValues()
    manager.handle_output(dg.build_output_context(name="result", step_key="captured_pairs"), None)
    with pytest.raises(dg.Failure, match="references only"):
        manager.handle_output(
            dg.build_output_context(name="result", step_key="captured_pairs"), ["a row"]
        )
    with pytest.raises(dg.Failure, match="there is none"):
        manager.load_input(
            dg.build_input_context(name="result", asset_key=dg.AssetKey("captured_pairs"))
        )


def test_a_failure_carries_the_remedy_into_dagster_and_back_out(
    pipeline: Pipeline, opened: dg.DagsterInstance, captured: Callable[..., Any]
) -> None:
    from apprentice_pipeline.errors import TooFewPairs

    captured(pipeline.workspace, 5)
    opened.add_dynamic_partitions("streams", ["default.tickets"])
    with pytest.raises(TooFewPairs) as refusal:
        execute(opened, pipeline, "distill_job", "default.tickets")
    assert refusal.value.remedy
    (run,) = opened.get_runs()
    (failed,) = opened.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event is not None
    data = failed.dagster_event.step_failure_data
    assert data.user_failure_data is not None
    assert data.user_failure_data.metadata["remedy"].value == refusal.value.remedy


def test_days_reach_from_before_any_import_to_today() -> None:
    from apprentice_pipeline.orchestration.partitions import DAYS

    today = datetime.now(UTC).date()
    keys = DAYS.get_partition_keys()
    assert (keys[0], keys[-1]) == ("2015-01-01", str(today))
    assert str(today - timedelta(days=1)) in keys


def test_pairs_of_a_date_without_a_partition_are_left_out_and_said(
    pipeline: Pipeline, opened: dg.DagsterInstance, captured: Callable[..., Any]
) -> None:
    """History from 2020 is verified; what a wrong clock dated stops nothing."""
    from apprentice_pipeline.errors import TooFewPairs
    from apprentice_pipeline.orchestration.runs import distill

    years = {2020: 3, 1999: 2, datetime.now(UTC).year + 2: 4}
    skip = 0
    for year, number in years.items():
        ago = datetime.now(UTC) - datetime(year, 3, 1, tzinfo=UTC)
        captured(pipeline.workspace, number, skip=skip, ago_us=int(ago.total_seconds()) * 1_000_000)
        skip += number
    with pytest.raises(TooFewPairs, match="9 pairs, 3 verified"):
        distill(pipeline, "default", "tickets")
    (alert,) = pipeline.workspace.state.alerts("default")
    assert "6 pairs dated before 2015-01-01 or in the future" in alert.message
    skipped = look(pipeline, opened)
    assert not skipped.run_requests
    assert skipped.skip_reason is not None
    assert "6 pairs dated before" in str(skipped.skip_reason.skip_message)
