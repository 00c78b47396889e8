"""Status, report and readiness: true numbers, each with what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from apprentice_pipeline.errors import TooFewPairs
from apprentice_pipeline.records import Verdict, now_us
from apprentice_pipeline.stages import holdout, readiness, report, verification
from apprentice_pipeline.stages.results import append_records

pytestmark = pytest.mark.timeout(1_200)
DAY_US = 86_400_000_000
SMALL = "distill: {threshold: 60, holdout_fraction: 0.2}\nkscore: {min_holdout: 10}"


def verify_all(workspace: Any, namespace: str = "tickets") -> None:
    for day, _ in readiness.of_stream(workspace, "default", namespace).unverified_days:
        verification.verify_pending(workspace, "default", namespace, day)


def test_a_fresh_home_says_what_to_do_first(workspace: Any) -> None:
    found = report.status(workspace, "default")
    assert found.streams == ()
    assert (found.lost, found.at_risk) == (0, 0)
    assert "apprentice serve" in found.text()
    assert json.loads(json.dumps(found.to_dict()))["streams"] == []
    assert found.render("html").startswith("<!doctype html>")


def test_what_was_not_kept_is_told_even_where_nothing_was(workspace: Any) -> None:
    workspace.state.count("default", "tickets", "2026-01-02", {"lost": 3, "at_risk": 4})
    workspace.state.count("default", "other", "2026-01-03", {"lost": 1, "at_risk": 1})
    found = report.status(workspace, "default")
    assert (found.lost, found.at_risk) == (4, 5)
    told = "not kept: 4 exchanges (5 answers went out before their exchange was committed)"
    assert told in found.text()
    assert json.loads(json.dumps(found.to_dict()))["lost"] == 4
    assert report.status(workspace, "default", "other").lost == 1
    assert report.status(workspace, "acme").lost == 0


def test_a_declared_task_is_shown_before_anything_was_captured(home: Any) -> None:
    home.configure("tasks: [{name: classify_ticket}]")
    with home.open() as workspace:
        (stream,) = report.status(workspace, "default").streams
    assert (stream.phase, stream.version, stream.requests, stream.kappa) == (
        "collect",
        None,
        0,
        None,
    )
    assert stream.readiness.eta_days is None
    assert stream.next_step == "keep capturing: train pairs 0 of 1000"


def test_readiness_speaks_the_contract_s_words(home: Any, captured: Callable[..., Any]) -> None:
    home.configure("verify: {fraction: 0}")
    with home.open() as workspace:
        captured(workspace, 40, ago_us=2 * DAY_US)
        before = readiness.of_stream(workspace, "default", "tickets")
        assert before.text().splitlines()[0] == "namespace=tickets pairs=40 verified=0 (0%)"
        verify_all(workspace)
        stream = readiness.of_stream(workspace, "default", "tickets")
    first, second = stream.text().splitlines()
    assert first == "namespace=tickets pairs=40 verified=40 (100%)"
    assert second.startswith("ready_to_distill_at=1000 eta_days=")
    assert stream.eta_low is not None
    assert stream.eta_days is not None
    assert stream.eta_high is not None
    assert 0 < stream.eta_low < stream.eta_days < stream.eta_high
    assert stream.eta_days == pytest.approx((1_000 - 34) / 0.85 / (40 / 2), rel=0.01)
    with pytest.raises(TooFewPairs, match="40 pairs, 40 verified"):
        readiness.require_ready(stream)


def test_equal_inputs_count_once_towards_training(home: Any, captured: Callable[..., Any]) -> None:
    home.configure(SMALL + "\nverify: {fraction: 0}")
    with home.open() as workspace:
        captured(workspace, 30)
        captured(workspace, 30)
        verify_all(workspace)
        stream = readiness.of_stream(workspace, "default", "tickets")
    assert (stream.pairs, stream.verified) == (60, 60)
    assert stream.train + stream.holdout == 30


def test_pairs_that_wait_for_verification_are_worth_distilling(
    home: Any, captured: Callable[..., Any]
) -> None:
    """`apprentice distill` verifies them first, so that is the next step."""
    home.configure(SMALL + "\nverify: {fraction: 0}")
    with home.open() as workspace:
        captured(workspace, 40)
        early = readiness.of_stream(workspace, "default", "tickets")
        assert (early.worth_verifying, early.enough_once_verified) == (False, False)
        assert "next:" not in early.text()
        captured(workspace, 60, skip=40)
        waiting = readiness.of_stream(workspace, "default", "tickets")
        (stream,) = report.status(workspace, "default").streams
        with pytest.raises(TooFewPairs, match="100 pairs wait for verification"):
            readiness.require_ready(waiting)
        readiness.require_ready(waiting, once_verified=True)
    assert (waiting.ready, waiting.enough, waiting.worth_verifying) == (False, False, True)
    assert waiting.text().endswith("; next: apprentice distill --namespace tickets")
    assert stream.next_step == "apprentice distill --namespace tickets"


@pytest.mark.parametrize("namespace", ["tickets", "mail", "orders", "claims"])
@pytest.mark.parametrize("number", [67, 71, 75, 79, 83])
def test_what_is_called_ready_near_the_threshold_is_not_refused_for_a_count(
    home: Any, captured: Callable[..., Any], number: int, namespace: str
) -> None:
    """The split is drawn by hash: inputs × share is right on average only."""
    home.configure(SMALL + "\nverify: {fraction: 0}")
    with home.open() as workspace:
        captured(workspace, number, namespace=namespace)
        hoped = readiness.of_stream(workspace, "default", namespace)
        verify_all(workspace, namespace)
        stream = readiness.of_stream(workspace, "default", namespace)
        assert (stream.exact, stream.ready) == (True, hoped.ready_once_verified)
        if stream.ready:
            frozen = holdout.freeze(workspace, "default", namespace)
            assert (frozen.train, frozen.holdout) == (stream.train, stream.holdout)
        else:
            refusal = f"{stream.train} of 60 train pairs and {stream.holdout} of 10 verified"
            with pytest.raises(TooFewPairs, match=refusal):
                holdout.freeze(workspace, "default", namespace)


def test_inputs_that_are_no_text_are_not_counted_as_ready(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure(SMALL + "\nverify: {fraction: 0}")
    with home.open() as workspace:
        captured(workspace, 50)
        blocks = [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]
        captured(workspace, 150, skip=50, output=blocks)
        verify_all(workspace)
        stream = readiness.of_stream(workspace, "default", "tickets")
    assert stream.verified > 60
    assert (stream.ready, stream.exact) == (False, True)
    assert stream.train + stream.holdout == 50


def test_a_quarantined_pair_is_no_training_pair_and_the_newest_verdict_counts(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure("verify: {fraction: 0}")
    with home.open() as workspace:
        first, *_ = captured(workspace, 5)
        verify_all(workspace)
        later = Verdict(
            first.pair_id, "tickets", now_us(), "test", "quarantined", 0.0, 3, "disagreed"
        )
        append_records(workspace, "default", [later])
        stream = readiness.of_stream(workspace, "default", "tickets")
        assert (stream.pairs, stream.verified, stream.unverified_days) == (5, 4, ())


def test_a_task_s_own_threshold_binds(home: Any, captured: Callable[..., Any]) -> None:
    home.configure(
        "tasks: [{name: tickets, confidence_thresholds: {phase1_to_phase2: 20}}]\n"
        "distill: {holdout_fraction: 0.5}\nkscore: {min_holdout: 5}\nverify: {fraction: 0}"
    )
    with home.open() as workspace:
        captured(workspace, 100)
        captured(workspace, 100, namespace="others")
        verify_all(workspace)
        verify_all(workspace, "others")
        declared, other = (
            readiness.of_stream(workspace, "default", name) for name in ("tickets", "others")
        )
    assert (declared.ready, declared.ready_to_distill_at, declared.eta_days) == (True, 20, 0.0)
    assert declared.binding == "ready to distill"
    assert (other.ready, other.ready_to_distill_at) == (False, 1_000)


def test_after_a_distillation_the_status_shows_shadow_and_what_the_next_one_needs(
    distilled: Any,
) -> None:
    with distilled.open() as workspace:
        found = report.status(workspace, "default")
    (stream,) = found.streams
    assert (stream.phase, stream.version, stream.sampling) == ("shadow", 1, 1.0)
    assert (stream.kappa, stream.comparisons) == (None, 0)
    assert stream.readiness.trained_before
    assert (stream.readiness.new_train, stream.readiness.ready_to_distill_at) == (0, 30)
    text = found.text()
    assert "tickets: shadow, version 1" in text
    assert "correlation — (0 comparisons), sampling 100%" in text
    assert "local share —, escalated — of 0 requests since promotion" in text
    assert "next: nothing: comparisons decide when it may serve" in text
    document = json.loads(json.dumps(found.to_dict()))
    assert document["streams"][0]["readiness"]["pairs"] == 120
    assert "<td>shadow</td>" in found.render("html")


def test_money_and_shares_are_those_of_the_traffic(
    distilled: Any, fork: Callable[..., Any], captured: Callable[..., Any]
) -> None:
    with fork(distilled).open() as workspace:
        traffic = captured(workspace, 10, skip=500, ago_us=0, cost_usd=0.002)
        local = [
            each._replace(pair_id=f"local-{n}", served_by="local", cost_usd=0.0)
            for n, each in enumerate(traffic * 3)
        ]
        append_records(workspace, "default", local)
        workspace.state.meter("default", "tickets", "passthrough", 0.14, now_us(), calls=130)
        workspace.state.meter("default", "tickets", "shadow", 0.01, now_us(), calls=5)
        (stream,) = report.status(workspace, "default").streams
    mean = (120 * 0.001 + 10 * 0.002) / 130
    assert (stream.requests, stream.local, stream.local_share) == (40, 30, 0.75)
    assert (stream.total_requests, stream.total_local) == (160, 30)
    assert stream.spend_usd == pytest.approx(0.15)
    assert stream.own_usd == pytest.approx(0.01)
    assert stream.frontier_only_usd == pytest.approx(0.14 + mean * 30)
    assert stream.saved_usd == pytest.approx(mean * 30 - 0.01)


def test_an_unknown_price_is_said_not_guessed(workspace: Any, captured: Callable[..., Any]) -> None:
    captured(workspace, 3, cost_usd=None)
    (stream,) = report.status(workspace, "default").streams
    assert (stream.frontier_only_usd, stream.saved_usd) == (None, None)
    assert "all-frontier unknown" in report.status(workspace, "default").text()


def test_a_tenant_sees_its_own_streams_and_alerts_only(
    workspace: Any, captured: Callable[..., Any]
) -> None:
    captured(workspace, 2)
    captured(workspace, 2, tenant="acme", namespace="secret-plans")
    workspace.state.add_alert("acme", "secret-plans", "drift", "agreement fell", now_us=now_us())
    ours, theirs = (report.status(workspace, tenant) for tenant in ("default", "acme"))
    assert [stream.namespace for stream in ours.streams] == ["tickets"]
    assert ours.alerts == ()
    assert [stream.namespace for stream in theirs.streams] == ["secret-plans"]
    assert [alert["kind"] for alert in theirs.alerts] == ["drift"]
    assert {stream.tenant for stream in readiness.all_streams(workspace)} == {"acme", "default"}


def test_html_escapes_what_it_shows(workspace: Any) -> None:
    status = replace(report.status(workspace, "default"), tenant="<script>")
    assert "<script>" not in status.render("html")
