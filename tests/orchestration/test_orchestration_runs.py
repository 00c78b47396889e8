"""A stream distilled as Dagster runs it: what is left behind, and what a refusal leaves undone."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.errors import (
    BaseModelMissing,
    DistillError,
    GateRefused,
    Incoherent,
    TooFewPairs,
    UsageError,
)
from apprentice_pipeline.orchestration import automation
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.orchestration.runs import (
    distill,
    execute,
    instance,
    prepare_instance,
    tick_threshold_sensor,
)
from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.routing.champion import control_of
from apprentice_pipeline.stages import (
    artifact,
    holdout,
    promotion,
    readiness,
    reevaluation,
    results,
    verification,
)
from tests.conftest import put_pairs

pytestmark = pytest.mark.timeout(1_200)
STREAM = "default.tickets"
DAY_US = 86_400_000_000
DISTILLED = ("holdout_split", "lora_adapter", "kscore_eval", "signed_artifact", "registered_model")
CANARY = b"zanzibar-canary-7431"


def test_the_sensor_verifies_then_distills_then_rests(distilled: Any) -> None:
    verifying, distilling, resting = distilled.facts["ticks"]
    assert set(verifying) == {"verify_job"}
    assert (distilling, resting) == (["distill_job"], [])


def test_every_run_is_recorded_as_a_success_of_its_partition(distilled: Any) -> None:
    with instance(distilled.root / "dagster") as opened:
        runs = opened.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        (made,) = [run for run in runs if run.job_name == "distill_job"]
        assert made.tags["dagster/partition"] == STREAM
        assert made.tags["dagster/sensor_name"] == "pair_threshold_sensor"
        assert opened.get_dynamic_partitions("streams") == [STREAM]
        for asset in DISTILLED:
            assert opened.get_materialized_partitions(dg.AssetKey(asset)) == {STREAM}


def test_every_asset_shows_counts_and_a_picture_where_it_has_one(distilled: Any) -> None:
    with instance(distilled.root / "dagster") as opened:
        shown = {
            asset: newest.asset_materialization.metadata
            for asset in ("captured_pairs", "verified_pairs", *DISTILLED)
            if (newest := opened.get_latest_materialization_event(dg.AssetKey(asset)))
            and newest.asset_materialization
        }
    assert shown["captured_pairs"]["pairs"].value > 0
    assert shown["verified_pairs"]["label_noise"].value == "not estimated: nothing was resampled"
    assert shown["holdout_split"]["train"].value >= 60
    assert shown["holdout_split"]["holdout"].value >= 10
    assert shown["lora_adapter"]["trainable_parameters"].value > 0
    assert 0 <= shown["kscore_eval"]["k_score"].value <= 1
    assert "held-out requests" in shown["kscore_eval"]["statement"].value
    assert Path(shown["signed_artifact"]["path"].value).is_file()
    assert shown["registered_model"]["alias"].value == "champion"
    pictures = {"captured_pairs": "by_hour", "verified_pairs": "verdicts", "holdout_split": "sides"}
    for asset, name in {**pictures, "lora_adapter": "loss", "kscore_eval": "components"}.items():
        assert "data:image/png;base64," in shown[asset][name].value
    members = {row.data["member"]: row.data for row in shown["signed_artifact"]["members"].records}
    weights = members["adapter/adapter_model.safetensors"]
    assert len(weights["sha256"]) == 64
    assert int(weights["bytes"]) > 1_000
    (version,) = shown["registered_model"]["versions"].records
    assert (version.data["version"], version.data["aliases"]) == ("1", "champion")
    assert version.data["k_score"] == pytest.approx(shown["kscore_eval"]["k_score"].value, abs=1e-3)


def test_every_blocking_check_was_made_and_passed(distilled: Any) -> None:
    wanted = [
        dg.AssetCheckKey(dg.AssetKey("holdout_split"), "no_leakage"),
        dg.AssetCheckKey(dg.AssetKey("holdout_split"), "coherence"),
        dg.AssetCheckKey(dg.AssetKey("kscore_eval"), "kscore_gate"),
        dg.AssetCheckKey(dg.AssetKey("signed_artifact"), "signature_verifies"),
    ]
    with instance(distilled.root / "dagster") as opened:
        records = opened.event_log_storage.get_latest_asset_check_execution_by_key(wanted)
    assert set(records) == set(wanted)
    for record in records.values():
        assert record.event is not None
        event = record.event.dagster_event
        assert event is not None
        assert event.asset_check_evaluation_data.passed
    measured = {
        key.name: records[key].event.dagster_event.asset_check_evaluation_data.metadata
        for key in wanted
    }
    frozen = json.loads((distilled.root / "work/default/tickets/holdout_split.json").read_text())
    assert measured["no_leakage"]["inputs_on_both_sides"].value == 0
    assert measured["no_leakage"]["rows_compared"].value == frozen["train"] + frozen["holdout"]
    assert measured["coherence"]["inputs"].value == frozen["inputs"] > 100
    assert measured["coherence"]["disagreeing_inputs"].value == frozen["disagreeing_inputs"]


def test_no_word_of_a_pair_is_readable_in_any_file_of_the_home(distilled: Any) -> None:
    """The canary was in an input and in an output; archives are looked into."""
    files = [file for file in distilled.root.rglob("*") if file.is_file()]
    assert len(files) > 20
    for file in files:
        assert CANARY not in file.read_bytes(), file
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    assert CANARY not in archive.read(member), (file, member)
    with distilled.open() as workspace:
        from apprentice_pipeline.store.pairs import pairs

        opened = [json.dumps([p.input, p.output]) for p in pairs(workspace, "default", "tickets")]
    assert sum(CANARY.decode() in text for text in opened) == 1


def test_the_champion_is_a_verified_artifact_that_serving_follows(distilled: Any) -> None:
    with distilled.open() as workspace:
        registered = results.load(workspace, "default", "tickets", results.RegisteredModel)
        verified = artifact.verify_file(workspace, registered.path)
        champion = workspace.state.champion("default", "tickets")
        version = promotion.open_registry(workspace).champion("default", "tickets")
    assert (registered.model, registered.version, registered.alias) == (STREAM, 1, "champion")
    assert verified.digest == registered.digest
    assert champion is not None
    assert (champion.version, champion.digest) == (1, verified.digest)
    assert champion.facts["evaluator"] == "structured_match"
    assert champion.facts["system_prompt_digests"]
    assert version is not None
    assert (version.version, version.digest, version.k) == (
        1,
        verified.digest,
        pytest.approx(verified.score.k, abs=1e-6),
    )


def test_the_same_artifact_is_registered_once(distilled: Any, fork: Callable[..., Any]) -> None:
    with fork(distilled).pipeline() as pipeline:
        again = promotion.register(pipeline.workspace, pipeline.registry, "default", "tickets")
        assert again.version == 1
        assert len(pipeline.registry.versions("default", "tickets")) == 1


def test_too_few_pairs_are_refused_with_the_counts_before_anything_runs(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure("distill: {threshold: 60}\nkscore: {min_holdout: 10}\nverify: {fraction: 0}")
    with home.pipeline() as pipeline:
        captured(pipeline.workspace, 30)
        with pytest.raises(TooFewPairs, match="30 pairs, 30 verified: about 26 train") as refusal:
            distill(pipeline, "default", "tickets")
        assert "distill.threshold" in refusal.value.remedy
        with instance(pipeline.workspace.home.dagster) as opened:
            assert {run.job_name for run in opened.get_runs()} == {"verify_job"}
    assert not (home.root / "mlflow" / "mlflow.db").exists()


def test_a_base_that_is_missing_is_said_before_anything_is_verified_or_frozen(
    home: Any, captured: Callable[..., Any], run_apprentice: Callable[..., Any]
) -> None:
    """Resampling is paid for; a base that cannot be had must not cost it."""
    home.configure("distill: {threshold: 60}\nkscore: {min_holdout: 10}\nverify: {fraction: 0}")
    with home.open() as workspace:
        captured(workspace, 100)
    arguments = ("distill", "--namespace", "tickets", "--base-model", "./no-such-model", "--json")
    ended = run_apprentice(home, *arguments)
    assert (ended.status, ended.document["error"]) == (1, "BaseModelMissing")
    assert "no-such-model" in ended.document["message"]
    assert ended.document["remedy"]
    with home.open() as workspace:
        assert readiness.of_stream(workspace, "default", "tickets").verified == 0
    assert not (home.root / "corpora").exists() or not any((home.root / "corpora").rglob("*.*"))


def test_nothing_captured_is_too_few(home: Any) -> None:
    with home.pipeline() as pipeline, pytest.raises(TooFewPairs, match="0 pairs"):
        distill(pipeline, "default", "tickets")


def test_a_second_run_of_a_stream_at_once_is_refused_and_changes_nothing(
    distilled: Any, fork: Callable[..., Any], run_apprentice: Callable[..., Any]
) -> None:
    """Another run would replace the corpus under the feet of the one under way."""
    home = fork(distilled)
    records = {file.name: file.read_bytes() for file in home.root.glob("work/**/*.json")}
    with home.pipeline() as pipeline, instance(home.root / "dagster") as opened:
        put_pairs(pipeline.workspace, 20, skip=200)
        with results.exclusively(pipeline.workspace, "default", "tickets"):
            ended = run_apprentice(home, "distill", "--namespace", "tickets", "--json")
            assert (ended.status, ended.document["error"]) == (1, "DistillError")
            assert "by another run" in ended.document["message"]
            assert "wait for it to end" in ended.document["remedy"]
            for job in ("distill_job", "evaluate_job"):
                with pytest.raises(DistillError, match="by another run"):
                    execute(opened, pipeline, job, STREAM)
        stream = readiness.of_stream(pipeline.workspace, "default", "tickets")
        assert sum(pairs for _, pairs in stream.unverified_days) == 20
        assert {
            file.name: file.read_bytes() for file in home.root.glob("work/**/*.json")
        } == records
        assert {run.status for run in opened.get_runs(limit=2)} == {dg.DagsterRunStatus.FAILURE}


def test_a_failed_run_lets_go_of_its_stream(home: Any, captured: Callable[..., Any]) -> None:
    with home.pipeline() as pipeline, instance(home.root / "dagster") as opened:
        captured(pipeline.workspace, 5)
        opened.add_dynamic_partitions("streams", [STREAM])
        with pytest.raises(TooFewPairs):
            execute(opened, pipeline, "distill_job", STREAM)
        with results.exclusively(pipeline.workspace, "default", "tickets"):
            pass


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, distilled: Any) -> Any:
    """A fork of the distilled home whose gate then asked for K = 1, distilled again by command."""
    from tests.conftest import apprentice

    made = distilled.fork(tmp_path_factory.mktemp("refused"))
    made.configure(made.file.read_text().replace("gate: 0.0", "gate: 1.0"))
    with made.open() as workspace:
        put_pairs(workspace, 20, skip=200, ago_us=1_000_000)
    made.facts["distill"] = apprentice(made, "distill", "--namespace", "tickets", "--json")
    return made


def test_a_refusal_of_the_gate_ends_with_status_1_and_its_remedy(refused: Any) -> None:
    ended = refused.facts["distill"]
    assert ended.status == 1
    assert ended.document["error"] == "GateRefused"
    assert "K-score gate refused" in ended.document["message"]
    assert ended.document["remedy"]
    assert "K-score gate refused" in ended.err
    assert "DEBUG" not in ended.err


def test_what_the_gate_refused_is_neither_signed_nor_registered(refused: Any) -> None:
    with refused.pipeline() as pipeline, instance(refused.root / "dagster") as opened:
        assert len(pipeline.registry.versions("default", "tickets")) == 1
        scored = results.load(pipeline.workspace, "default", "tickets", results.ScoredAdapter)
        assert not scored.passed
        with pytest.raises(GateRefused):
            artifact.pack_and_sign(pipeline.workspace, "default", "tickets")
        newest = opened.get_runs(limit=1)[0]
        assert newest.status is dg.DagsterRunStatus.FAILURE
        made = {
            log.dagster_event.asset_key.to_user_string()
            for log in opened.all_logs(newest.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION)
            if log.dagster_event and log.dagster_event.asset_key
        }
        assert made == {"holdout_split", "lora_adapter", "kscore_eval"}
        checks = opened.all_logs(newest.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        failed = [
            log.dagster_event.asset_check_evaluation_data
            for log in checks
            if log.dagster_event and not log.dagster_event.asset_check_evaluation_data.passed
        ]
        assert [check.check_name for check in failed] == ["kscore_gate"]
        assert "K" in failed[0].description


def test_after_a_refusal_the_champion_stays_and_the_sensor_waits_for_new_pairs(
    refused: Any,
) -> None:
    with refused.pipeline() as pipeline:
        champion = pipeline.workspace.state.champion("default", "tickets")
        assert champion is not None
        assert champion.version == 1
        stream = readiness.of_stream(pipeline.workspace, "default", "tickets")
        assert not stream.ready
        assert "new train pairs 0 of 30" in stream.binding
        assert tick_threshold_sensor(pipeline, "default", "tickets") == []


def test_a_tick_by_hand_leaves_other_streams_alone(home: Any, captured: Callable[..., Any]) -> None:
    """An old stream whose training fails must not stop the one that is wanted."""
    home.configure(
        "distill: {threshold: 60, holdout_fraction: 0.2}\n"
        "kscore: {min_holdout: 1}\nverify: {fraction: 0}"
    )
    with home.pipeline() as pipeline, instance(home.root / "dagster") as opened:
        captured(pipeline.workspace, 100, namespace="broken")
        contradicting = [
            each._replace(pair_id=new_pair_id(each.created_at_us + 1), output="another answer")
            for each in captured(pipeline.workspace, 100, namespace="broken", ago_us=DAY_US)
        ]
        results.append_records(pipeline.workspace, "default", contradicting)
        captured(pipeline.workspace, 100)
        first = tick_threshold_sensor(pipeline, "default", "tickets")
        assert set(first) == {"verify_job"}
        assert {run.tags["dagster/partition/stream"] for run in opened.get_runs()} == {STREAM}
        (run, *_) = opened.get_runs()
        assert run.tags["dagster/run_key"].startswith("verify:default.tickets:")
        assert tick_threshold_sensor(pipeline, "default", "broken")
        for _ in range(2):  # who ticks by hand may try again
            with pytest.raises(Incoherent):
                tick_threshold_sensor(pipeline, "default", "broken")


def alarm(home: Any, thresholds: str, **changes: Any) -> int:
    """Gives the home's champion an alarm two hours ago, and 240 pairs since then; its time."""
    home.configure(
        f"{home.file.read_text()}tasks: [{{name: tickets, match_fields: [category], "
        f"confidence_thresholds: {thresholds}}}]\n"
    )
    at_us = now_us() - 7_200_000_000
    with home.open() as workspace:
        put_pairs(workspace, 240, skip=300, ago_us=3_600_000_000)
        workspace.state.update_control(
            "default",
            "tickets",
            lambda text: replace(
                control_of(text), since_us=at_us, coaching_since_us=at_us, **changes
            ).to_json(),
        )
    return at_us


def asked(pipeline: Any, opened: dg.DagsterInstance) -> list[tuple[str | None, str | None]]:
    """What one look of the drift sensor asks for."""
    with dg.build_sensor_context(instance=opened, resources={"pipeline": pipeline}) as context:
        result = automation.drift_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return [(request.job_name, request.run_key) for request in result.run_requests or ()]


def test_no_alarm_asks_for_nothing(distilled: Any) -> None:
    with distilled.pipeline() as pipeline, instance(distilled.root / "dagster") as opened:
        assert readiness.drift_alarms(pipeline.workspace) == []
        assert asked(pipeline, opened) == []
        with pytest.raises(UsageError, match="no alarm stands"):
            reevaluation.reevaluate(pipeline.workspace, "default", "tickets")


def test_a_suspension_that_is_not_confirmed_leaves_to_shadow(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    """The champion itself is asked, from its artifact: the newest adapter is not even there."""
    home = fork(distilled)
    at_us = alarm(home, "{emergency_threshold: 0.0}", phase=Phase.SUSPENDED, coaching="drift")
    with home.pipeline() as pipeline, instance(home.root / "dagster") as opened:
        trained = results.load(pipeline.workspace, "default", "tickets", results.TrainedAdapter)
        shutil.rmtree(trained.folder)
        before = {file.name: file.read_bytes() for file in home.root.glob("work/**/*.json")}
        ((job, run_key),) = first = asked(pipeline, opened)
        assert (job, str(at_us) in str(run_key)) == ("evaluate_job", True)
        assert asked(pipeline, opened) == first
        result = execute(opened, pipeline, "evaluate_job", STREAM)
        (observed,) = result.asset_observations_for_node("reevaluate_champion")
        assert (observed.partition, observed.metadata["confirmed"].value) == (STREAM, False)
        control = control_of(pipeline.workspace.state.control("default", "tickets"))
        assert (control.phase, control.coaching, control.alarm_at_us) == ("shadow", "", None)
        after = {file.name: file.read_bytes() for file in home.root.glob("work/**/*.json")}
        assert {name for name in after if after[name] != before.get(name)} == {"reevaluation.json"}
        assert asked(pipeline, opened) == []
        kinds = {alert.kind for alert in pipeline.workspace.state.alerts("default")}
    assert kinds == {"phase_shadow", "re-evaluation"}


def test_an_alarm_that_is_confirmed_stands_and_asks_for_one_training(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    home = fork(distilled)
    trigger = "{coaching_trigger: 1.0, phase2_to_phase3: 1.0}"
    alarm(home, trigger, coaching="low agreement")
    with home.pipeline() as pipeline, instance(home.root / "dagster") as opened:
        workspace = pipeline.workspace
        scored = results.load(workspace, "default", "tickets", results.ScoredAdapter)
        refused = replace(scored, passed=False, at_us=now_us())
        results.save(workspace, "default", "tickets", refused)  # a challenger's, and no witness
        assert [job for job, _ in asked(pipeline, opened)] == ["evaluate_job"]
        execute(opened, pipeline, "evaluate_job", STREAM)
        (standing,) = readiness.drift_alarms(workspace)
        assert (standing.kind, standing.confirmed) == ("low agreement", True)
        found = results.load(workspace, "default", "tickets", results.Reevaluated)
        assert (found.rows >= 30, found.kappa < found.needed) == (True, True)
        first = asked(pipeline, opened)
        assert [job for job, _ in first] == ["distill_job"]
        assert asked(pipeline, opened) == first
        assert control_of(workspace.state.control("default", "tickets")).coaching
        assert any("is confirmed" in each.message for each in workspace.state.alerts("default"))


def test_an_alarm_waits_for_fresh_holdout_rows(distilled: Any, fork: Callable[..., Any]) -> None:
    """What came before it sounded tells nothing of it."""
    home = fork(distilled)
    alarm(home, "{}", coaching="drift")
    with home.pipeline() as pipeline, instance(home.root / "dagster") as opened:
        pipeline.workspace.state.update_control(
            "default",
            "tickets",
            lambda text: replace(control_of(text), coaching_since_us=now_us()).to_json(),
        )
        (standing,) = readiness.drift_alarms(pipeline.workspace)
        assert (standing.fresh, standing.confirmed) == (0, False)
        assert asked(pipeline, opened) == []
        with pytest.raises(TooFewPairs, match=r"0 holdout pairs of default\.tickets came since"):
            execute(opened, pipeline, "evaluate_job", STREAM)


def test_a_corpus_frozen_apart_does_not_count_as_a_training(
    distilled: Any, fork: Callable[..., Any], captured: Callable[..., Any]
) -> None:
    with fork(distilled).open() as workspace:
        captured(workspace, 20, skip=300, ago_us=1_000_000)
        days = readiness.of_stream(workspace, "default", "tickets").unverified_days
        for day, _ in days:
            verification.verify_pending(workspace, "default", "tickets", day)
        before = readiness.of_stream(workspace, "default", "tickets")
        holdout.freeze(workspace, "default", "tickets")
        after = readiness.of_stream(workspace, "default", "tickets")
        assert before.new_train > 0
        assert (after.new_train, after.evidence) == (before.new_train, before.evidence)
        with pytest.raises(DistillError, match="do not belong together"):
            artifact.pack_and_sign(workspace, "default", "tickets")


def test_a_base_that_is_not_there_stops_the_run_with_its_own_cause(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure(
        "distill: {threshold: 60, holdout_fraction: 0.2}\nkscore: {min_holdout: 10}\n"
        "verify: {fraction: 0}"
    )
    pipeline = Pipeline(home.environment, base_model="./nodir")
    captured(pipeline.workspace, 120)
    with pytest.raises(BaseModelMissing, match="no such folder"):
        distill(pipeline, "default", "tickets")
    pipeline.workspace.close()


@pytest.mark.parametrize("name", ["a #comment", "key: value", "'quoted' \"twice\"", "{braces}"])
def test_a_home_may_have_any_path(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name / "dagster"
    with instance(prepare_instance(folder)) as opened:
        opened.add_dynamic_partitions("streams", [STREAM])
    assert any(folder.glob("**/*.db"))
    with instance(folder) as again:
        assert again.get_dynamic_partitions("streams") == [STREAM]
