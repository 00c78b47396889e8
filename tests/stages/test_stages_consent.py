"""Consent and coaching: what may be learnt from, and what is learnt harder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from apprentice_pipeline.corpus.rows import CorpusRow
from apprentice_pipeline.errors import ConsentWithheld
from apprentice_pipeline.records import ComparisonRow
from apprentice_pipeline.routing.champion import control_of
from apprentice_pipeline.stages import (
    adapter,
    artifact,
    coaching,
    export,
    holdout,
    readiness,
    score,
    verification,
)
from apprentice_pipeline.stages.results import append_records

SMALL = """\
distill: {threshold: 20, holdout_fraction: 0.2}
kscore: {min_holdout: 2}
verify: {fraction: 0}
local: {fine_tune_batch_size: 100}
"""
WITHHELD = SMALL + "tasks: [{name: tickets, consent: false}]\n"
COACHED = SMALL + "tasks: [{name: tickets, coaching: {tail_oversampling: 3, retrain_every: 40}}]\n"


def verified(home: Any, captured: Callable[..., Any]) -> None:
    """120 verified pairs of `tickets`, while learning from them was allowed."""
    with home.open() as workspace:
        captured(workspace, 120)
        stream = readiness.of_stream(workspace, "default", "tickets")
        for day, _ in stream.unverified_days:
            verification.verify_pending(workspace, "default", "tickets", day)


def test_without_consent_nothing_is_frozen_trained_or_ready_and_capture_goes_on(
    home: Any, captured: Callable[..., Any], run_apprentice: Callable[..., Any]
) -> None:
    home.configure(SMALL)
    verified(home, captured)
    with home.open() as workspace:
        assert readiness.of_stream(workspace, "default", "tickets").ready
        holdout.freeze(workspace, "default", "tickets")
    home.configure(WITHHELD)
    with home.open() as workspace:
        captured(workspace, 5, skip=200, ago_us=0)
        stream = readiness.of_stream(workspace, "default", "tickets")
        assert (stream.pairs, stream.train, stream.holdout) == (125, 0, 0)
        assert (stream.ready, stream.enough, stream.worth_verifying) == (False, False, False)
        assert "consent is withheld" in stream.text()
        for refused in (
            lambda: readiness.require_ready(stream),
            lambda: holdout.freeze(workspace, "default", "tickets"),
            lambda: adapter.train(workspace, "default", "tickets"),
        ):
            with pytest.raises(ConsentWithheld, match="tickets: consent is withheld") as refusal:
                refused()
            assert "consent: true under task tickets" in refusal.value.remedy
        assert len(list(export.rows(workspace, export.Request("default", "tickets")))) == 125
        other = captured(workspace, 30, namespace="elsewhere")
        assert readiness.of_stream(workspace, "default", "elsewhere").pairs == len(other)
    outcome = run_apprentice(home, "distill", "--namespace", "tickets")
    assert outcome.status == 1
    assert "consent is withheld" in outcome.err
    status = json.loads(run_apprentice(home, "status", "--json").out)
    assert "consent is withheld" in json.dumps(status, ensure_ascii=False)


def test_consent_withdrawn_after_training_opens_the_corpus_to_no_later_stage(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    home = fork(distilled)
    text = home.file.read_text(encoding="utf-8")
    home.configure(text + "tasks: [{name: tickets, consent: false}]\n")
    with home.open() as workspace:
        for refused in (score.evaluate_adapter, artifact.pack_and_sign):
            with pytest.raises(ConsentWithheld, match="tickets: consent is withheld"):
                refused(workspace, "default", "tickets")


def coach(workspace: Any) -> None:
    workspace.state.update_control(
        "default", "tickets", lambda text: replace(control_of(text), coaching="drift").to_json()
    )


def compared(pair_id: str, *, confidence: float = 0.9, score: float = 1.0) -> ComparisonRow:
    return ComparisonRow(
        pair_id=pair_id,
        namespace="tickets",
        created_at_us=1,
        version=1,
        phase="serve",
        confidence=confidence,
        score=score,
        sampled=True,
        served=False,
        tau=0.5,
        pi=1.0,
        remote_latency_us=1,
        local_latency_us=1,
    )


def test_while_coached_the_tail_is_drawn_more_often_and_only_then(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure(COACHED)
    verified(home, captured)
    with home.open() as workspace:
        frozen = holdout.freeze(workspace, "default", "tickets")
        rows = holdout.reload(workspace, "default", "tickets", frozen).corpus.train
        escalated, wrong, right = (row.pair_id for row in rows[:3])
        append_records(
            workspace,
            "default",
            [
                compared(escalated, confidence=0.2),
                compared(wrong, score=0.0),
                compared(right),
            ],
        )
        calm = coaching.training_weights(workspace, "default", "tickets", rows)
        assert calm == [1.0] * len(rows)
        coach(workspace)
        drawn = coaching.training_weights(workspace, "default", "tickets", rows)
    weight = dict(zip((row.pair_id for row in rows), drawn, strict=True))
    assert weight[escalated] == weight[wrong] == pytest.approx(3 * weight[right])
    assert sum(drawn) == pytest.approx(len(rows))


def test_the_tail_s_weight_multiplies_what_its_inclusion_probability_gives() -> None:
    common = CorpusRow("a", "", [], "", "", "", "verified", None, 1.0, 1, None, 1)
    rare = replace(common, pair_id="b", inclusion_probability=0.25)
    tail = replace(common, pair_id="c")
    first, second, third = coaching.oversampled([common, rare, tail], {"c"}, 2.0)
    assert (second / first, third / first) == (pytest.approx(4), pytest.approx(2))
    assert coaching.oversampled([], set(), 2.0) == []


def test_while_coached_a_retraining_waits_for_fewer_pairs(
    home: Any, captured: Callable[..., Any]
) -> None:
    home.configure(COACHED)
    with home.open() as workspace:
        assert coaching.retraining_batch(workspace, "default", "tickets") == 100
        coach(workspace)
        assert coaching.retraining_batch(workspace, "default", "tickets") == 40
        assert coaching.retraining_batch(workspace, "default", "elsewhere") == 100
