"""What is not served is always reported: how much, how well, why, and the most that could be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.records import ComparisonRow, date_of, new_pair_id, now_us
from apprentice_pipeline.routing import tail as counted
from apprentice_pipeline.routing.champion import ServingFacts, bring_into_force, policy_of
from apprentice_pipeline.stages import report
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.state import ChampionRecord

CERTIFICATE = Certificate(0.9, 240, 0.8, 0.041, 0.05, 0.0304, 1)


def promote(workspace: Any, certificate: Certificate | None = CERTIFICATE) -> None:
    """A champion from the beginning of time, so that all captured requests are since."""
    facts = ServingFacts(0.1, certificate, frozenset({""}), 512, "structured_match").to_plain()
    record = ChampionRecord("default", "tickets", 3, "d" * 64, "x", facts, 0)
    workspace.state.set_champion("default", "tickets", record)
    policy = policy_of(workspace.config, "tickets")
    bring_into_force(workspace.state, "default", "tickets", policy, now_us())


def compare(workspace: Any, confidence: float, score: float, **changes: Any) -> None:
    at_us = now_us()
    fields: dict[str, Any] = {
        "pair_id": new_pair_id(at_us), "namespace": "tickets", "created_at_us": at_us,
        "version": 3, "phase": "serve", "confidence": confidence, "score": score,
        "sampled": True, "served": confidence >= 0.9, "tau": 0.9, "pi": 1.0,
        "remote_latency_us": 1, "local_latency_us": 1,
    } | changes  # fmt: skip
    append_records(workspace, "default", [ComparisonRow(**fields)])


def count(workspace: Any, **increments: float) -> None:
    workspace.state.count("default", "tickets", date_of(now_us()), increments)


def test_the_tail_is_reported_in_text_json_and_html(workspace: Any, captured: Any) -> None:
    captured(workspace, 10)
    promote(workspace)
    compare(workspace, 0.95, 1.0)
    compare(workspace, 0.3, 0.0, sampled=False)
    compare(workspace, 0.4, 0.5, sampled=False)
    compare(workspace, 0.4, 0.0, sampled=False, version=2)
    count(workspace, **{counted.escalated(3): 4, counted.escalated(2): 90})
    count(workspace, **{counted.ineligible(3, "tools"): 1, counted.ineligible(3, "images"): 2})
    found = report.status(workspace, "default")
    (stream,) = found.streams
    assert (stream.tail.escalated, stream.escalated_share) == (4, 0.4)
    assert (stream.tail.compared, stream.tail.score) == (2, 0.25)
    assert stream.tail.ineligible == {"images": 2, "tools": 1}
    sentences = (
        "local share 0%, escalated 40% of 10 requests since promotion",
        "tail: 4 escalated; 2 below the threshold compared, mean score 0.250",
        "ineligible: 3 (images 2, tools 1)",
    )
    assert all(sentence in found.text() for sentence in sentences)
    assert all(sentence in found.render("html") for sentence in sentences[1:])
    document = json.loads(json.dumps(found.to_dict()))["streams"][0]
    assert document["tail"]["ineligible"] == {"images": 2, "tools": 1}
    assert document["escalated_share"] == 0.4


def test_the_certificate_is_shown_whole(workspace: Any) -> None:
    promote(workspace)
    found = report.status(workspace, "default", "tickets")
    (stream,) = found.streams
    assert stream.certificate == CERTIFICATE.to_plain()
    sentence = (
        "confidence ≥ 0.9 (n=240, 80% of the calibration rows), "
        "disagreement ≤ 0.0410 of at most 0.05, delta_1=0.0304"
    )
    assert f"certificate: {sentence}" in found.text()
    assert sentence in found.render("html")


def test_without_a_certificate_that_is_said(workspace: Any) -> None:
    promote(workspace, None)
    text = report.status(workspace, "default", "tickets").text()
    assert "certificate: none, no confidence qualifies to be served" in text
    assert "base risk unknown: no sampled comparison yet" in text
    assert "ineligible: none" in text


def test_the_most_that_any_router_could_serve_follows_from_the_base_risk(
    workspace: Any, captured: Any
) -> None:
    captured(workspace, 1)
    promote(workspace)
    for _ in range(3):
        compare(workspace, 0.95, 1.0)
    compare(workspace, 0.95, 0.0)
    compare(workspace, 0.1, 0.0, sampled=False)
    (stream,) = report.status(workspace, "default").streams
    assert stream.tail.base_risk == 0.25
    assert stream.tail.most_servable == pytest.approx(0.75 / 0.95)
    text = report.status(workspace, "default").text()
    assert "base risk 0.250: at most 78.9% of eligible traffic can be served" in text


def test_a_comparison_sampled_rarely_stands_for_the_many_that_were_not(
    workspace: Any, captured: Any
) -> None:
    captured(workspace, 1)
    promote(workspace)
    for _ in range(10):
        compare(workspace, 0.95, 1.0, pi=1.0)
    compare(workspace, 0.95, 0.0, pi=0.1)
    (stream,) = report.status(workspace, "default").streams
    assert stream.tail.base_risk == pytest.approx(0.5)


def test_a_stream_without_a_champion_has_no_tail(workspace: Any, captured: Any) -> None:
    captured(workspace, 1)
    found = report.status(workspace, "default")
    assert found.streams[0].certificate is None
    assert found.streams[0].tail.ineligible == {}
    assert "tail" not in found.text()
