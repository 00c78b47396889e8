"""The controller: a walk through its phases, and what holds on every walk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.control import phases
from apprentice_pipeline.control.events import (
    CertificateChanged,
    CoachingChanged,
    DriftDetected,
    Event,
    PhaseChanged,
    RecalibrationDue,
    SequenceRestarted,
    ShiftSuspected,
)
from apprentice_pipeline.control.phases import (
    Champion,
    Comparison,
    ControlState,
    Phase,
    Policy,
    Verdict,
)
from apprentice_pipeline.control.risk import Certificate

CERTIFICATE = Certificate(0.5, 200, 0.8, 0.03, 0.05, 0.03, 1)
CHAMPION = Champion(1, 1 / 15, CERTIFICATE)
POLICY = Policy()


def comparison(index: int, score: float = 1.0, confidence: float = 0.9) -> Comparison:
    return Comparison(f"pair-{index}", confidence, score, True, True, 0.5, 1.0, 1000 + index)


def fold(
    state: ControlState, comparisons: Iterable[Comparison], policy: Policy = POLICY
) -> tuple[ControlState, list[Event]]:
    announced: list[Event] = []
    for each in comparisons:
        state, events = phases.observe(state, each, policy)
        announced += events
    return state, announced


def shadowing(champion: Champion = CHAMPION) -> ControlState:
    return phases.promote(ControlState.initial(), champion, POLICY, 1)[0]


def stream(start: int, n: int, mean: float, seed: int = 0) -> list[Comparison]:
    rng = np.random.default_rng(seed)
    return [comparison(start + i, float(rng.random() < mean)) for i in range(n)]


def serving() -> ControlState:
    state, _ = fold(shadowing(), stream(0, 150, 0.98))
    assert state.phase is Phase.SERVE
    return state


def moves(events: Iterable[Event]) -> list[tuple[Phase, Phase]]:
    return [(e.before, e.after) for e in events if isinstance(e, PhaseChanged)]


def test_without_a_champion_everything_is_remote_and_nothing_is_learnt() -> None:
    state = ControlState.initial()
    plan = phases.plan(state, 0.0, None)
    assert (plan.answer_from, plan.shadow, plan.sampled) == ("remote", False, False)
    assert phases.observe(state, comparison(1), POLICY) == (state, ())


def test_a_promotion_leads_to_shadow_where_both_answer_and_the_remote_one_is_returned() -> None:
    state, events = phases.promote(ControlState.initial(), CHAMPION, POLICY, 5)
    assert moves(events) == [(Phase.COLLECT, Phase.SHADOW)]
    assert CertificateChanged(5, CERTIFICATE) in events
    plan = phases.plan(state, 0.999, None)
    assert (plan.answer_from, plan.shadow, plan.sampled, plan.pi) == ("remote", True, True, 1.0)
    assert phases.judge(state, plan, 1.0) is Verdict.ESCALATED


def test_agreement_graduates_to_serve_and_sampling_decays_to_the_floor() -> None:
    state, events = fold(shadowing(), [comparison(i) for i in range(200)])
    assert moves(events) == [(Phase.SHADOW, Phase.SERVE)]
    assert state.kappa_hat == 1.0
    assert state.kappa_low is not None
    assert state.kappa_low >= POLICY.phase2_to_phase3
    assert state.sampling.pi == pytest.approx(POLICY.min_floor)
    assert state.n == state.n_sampled == state.n_compared == 200


def test_serve_answers_locally_at_or_above_tau_and_escalates_below() -> None:
    state = serving()
    plan = phases.plan(state, 0.0, None)
    assert (plan.answer_from, plan.shadow, plan.sampled) == ("local_first", False, True)
    assert phases.judge(state, plan, 0.5) is Verdict.SERVED
    assert phases.judge(state, plan, 0.49) is Verdict.ESCALATED
    assert phases.judge(state, plan, float("nan")) is Verdict.ESCALATED
    assert not phases.plan(state, 0.999, None).sampled


def test_an_ineligible_request_goes_remote_with_its_reason() -> None:
    plan = phases.plan(serving(), 0.0, "the local backend does not support tools")
    assert plan.answer_from == "remote"
    assert plan.reason == "the local backend does not support tools"
    assert not plan.sampled


def test_a_pair_includes_how_probable_it_was() -> None:
    state = serving()
    plan = phases.plan(state, 0.0, None)
    assert phases.inclusion_probability(plan, Verdict.SERVED) == state.sampling.pi < 1.0
    assert phases.inclusion_probability(plan, Verdict.ESCALATED) == 1.0
    assert phases.inclusion_probability(phases.plan(shadowing(), 0.5, None), None) == 1.0


def test_without_a_certificate_nothing_is_ever_served() -> None:
    bare = shadowing(Champion(1, 0.1, None))
    state, events = fold(bare, [replace(comparison(i), tau=None) for i in range(500)])
    assert state.phase is Phase.SHADOW
    assert phases.plan(state, 0.0, None).answer_from == "remote"
    assert any(isinstance(e, RecalibrationDue) for e in events)


def test_only_sampled_comparisons_at_or_above_tau_enter_the_estimates() -> None:
    state, _ = fold(
        shadowing(),
        [
            replace(comparison(1), sampled=False),
            comparison(2, confidence=0.4),
            replace(comparison(3), champion_version=7),
            comparison(4, 0.0),
        ],
    )
    assert (state.n_compared, state.n_sampled, state.n) == (3, 2, 1)
    assert state.mu_hat == 0.0


def test_a_collapse_suspends_at_once_and_everything_is_remote() -> None:
    state, events = fold(serving(), stream(1000, 120, 0.1))
    assert moves(events) == [(Phase.SERVE, Phase.SUSPENDED)]
    assert state.kappa_high is not None
    assert state.kappa_high < POLICY.emergency_threshold
    plan = phases.plan(state, 0.999, None)
    assert (plan.answer_from, plan.shadow, plan.pi) == ("remote", True, 1.0)


def test_a_request_in_flight_when_the_task_is_suspended_is_escalated() -> None:
    before = serving()
    plan = phases.plan(before, 0.0, None)
    after, _ = fold(before, stream(1000, 120, 0.1))
    assert phases.judge(after, plan, 1.0) is Verdict.ESCALATED


def test_suspended_leaves_on_a_new_champion_or_when_re_evaluation_does_not_confirm() -> None:
    suspended, _ = fold(serving(), stream(1000, 120, 0.1))
    assert phases.reevaluate(suspended, True, 9)[0] == suspended
    calm, events = phases.reevaluate(suspended, False, 9)
    assert moves(events) == [(Phase.SUSPENDED, Phase.SHADOW)]
    assert (calm.kappa_hat, calm.coaching) == (None, "")
    fresh, events = phases.promote(suspended, replace(CHAMPION, version=2), POLICY, 9)
    assert moves(events) == [(Phase.SUSPENDED, Phase.SHADOW)]
    assert fresh.n == 0


def test_a_moderate_drop_raises_a_drift_alarm_coaching_and_full_sampling() -> None:
    """From .98 to .75: below the level at graduation, above the emergency."""
    state, events = fold(serving(), stream(1000, 200, 0.75, seed=4))
    alarms = [e for e in events if isinstance(e, DriftDetected)]
    assert alarms
    assert alarms[0].size > 0
    assert [e.on for e in events if isinstance(e, CoachingChanged)] == [True]
    assert state.phase is Phase.SERVE
    assert state.sampling.pi == 1.0
    calm, events = phases.reevaluate(state, False, 9)
    assert (calm.phase, calm.coaching) == (Phase.SERVE, "")
    assert [e.on for e in events if isinstance(e, CoachingChanged)] == [False]


def test_coaching_by_drift_ends_once_agreement_is_proven_again() -> None:
    state, _ = fold(serving(), stream(1000, 200, 0.75, seed=4))
    state, events = fold(state, (comparison(5000 + i) for i in range(400)))
    assert [e.on for e in events if isinstance(e, CoachingChanged)] == [False]
    assert state.sampling.pi == pytest.approx(POLICY.min_floor)


def test_low_agreement_over_a_full_window_starts_coaching_and_recovery_ends_it() -> None:
    """Kappa about .6: under the coaching trigger, over the emergency threshold."""
    state, events = fold(shadowing(), stream(0, 150, 0.63, seed=1))
    assert [e.on for e in events if isinstance(e, CoachingChanged)] == [True]
    _, events = fold(state, (comparison(900 + i) for i in range(150)))
    assert [e.on for e in events if isinstance(e, CoachingChanged)] == [False]


def test_recalibration_is_asked_for_when_the_rows_have_doubled_and_only_once() -> None:
    state, events = fold(shadowing(), [comparison(i) for i in range(249)])
    assert not [e for e in events if isinstance(e, RecalibrationDue)]
    state, events = fold(state, [comparison(i) for i in range(249, 400)])
    assert [(e.rows, e.j) for e in events if isinstance(e, RecalibrationDue)] == [(500, 2)]
    state, _ = phases.recertify(state, replace(CERTIFICATE, j=2), 500, 7)
    assert (state.recalibration_due, state.calibrations, state.calibrated_rows) == (False, 2, 500)
    assert state.phase is Phase.SERVE


def test_a_lost_certificate_stops_serving_and_another_tau_starts_the_bounds_anew() -> None:
    lost, events = phases.recertify(serving(), None, 500, 7)
    assert moves(events) == [(Phase.SERVE, Phase.SHADOW)]
    assert phases.plan(lost, 0.0, None).answer_from == "remote"
    looser, events = phases.recertify(serving(), replace(CERTIFICATE, tau=0.4), 500, 7)
    assert moves(events) == []
    assert looser.kappa_low == pytest.approx(-1 / 14)
    assert looser.sampling.pi == 1.0


def test_a_withdrawn_champion_leads_back_to_collect() -> None:
    state, events = phases.withdraw(serving(), 7)
    assert moves(events) == [(Phase.SERVE, Phase.COLLECT)]
    assert phases.plan(state, 0.0, None).answer_from == "remote"
    assert phases.withdraw(state, 8) == (state, ())


def test_forced_full_sampling_holds_until_its_time() -> None:
    state = phases.force_full(serving(), 5_000)
    assert phases.plan(state, 0.999, None, now_us=4_999).sampled
    assert not phases.plan(state, 0.999, None, now_us=5_000).sampled


def test_a_label_free_suspicion_raises_pi_for_one_window_and_never_lowers_it() -> None:
    state, rng = serving(), np.random.default_rng(0)
    events: list[Event] = []
    for confidence in (*rng.beta(9, 1, 250), *rng.beta(2, 3, 250)):
        if not events:
            state, more = phases.watch(state, confidence, bool(confidence < 0.5), POLICY, 3)
            events += more
    assert events == [ShiftSuspected(3)]
    assert state.sampling.pi == 1.0
    half, _ = fold(state, (comparison(3000 + i) for i in range(50)))
    assert half.sampling.pi == 1.0
    whole, _ = fold(half, (comparison(4000 + i) for i in range(60)))
    assert whole.sampling.pi < 1.0


def test_agreement_that_turns_out_not_to_be_constant_restarts_the_bounds() -> None:
    lax = replace(POLICY, emergency_threshold=0.0, phase2_to_phase3=1.0)
    state, _ = fold(shadowing(), stream(0, 100, 0.3), lax)
    state, more = fold(state, (comparison(1000 + i) for i in range(1500)), lax)
    assert any(isinstance(e, SequenceRestarted) for e in more)
    assert state.kappa_low is not None
    assert state.kappa_low > 0.9


def test_duplicates_are_ignored_across_a_restart() -> None:
    once, _ = fold(shadowing(), [comparison(1)])
    again, events = fold(ControlState.from_json(once.to_json()), [comparison(1, 0.0)])
    assert again == once
    assert events == []


def test_a_state_written_before_a_field_existed_still_opens() -> None:
    assert ControlState.from_json('{"phase":"collect"}') == ControlState.initial()


walks = st.lists(
    st.builds(
        Comparison,
        pair_id=st.integers(0, 60).map(str),
        confidence=st.floats(0, 1),
        score=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
        sampled=st.booleans(),
        served=st.booleans(),
        tau=st.none() | st.just(0.5),
        pi=st.just(1.0),
        at_us=st.integers(0, 10**12),
        champion_version=st.none() | st.integers(1, 2),
    ),
    max_size=60,
)
QUICK = Policy(
    phase2_to_phase3=0.3, coaching_trigger=0.2, emergency_threshold=0.15, window_size=5, arl=20
)


@settings(max_examples=80, deadline=None)
@given(walks, st.booleans())
def test_replaying_gives_the_same_state_and_so_does_a_restart_at_any_moment(
    walk: list[Comparison], certified: bool
) -> None:
    start = shadowing(CHAMPION if certified else replace(CHAMPION, certificate=None))
    straight, announced = fold(start, walk, QUICK)
    resumed, replayed = start, []
    for each in walk:
        resumed, events = fold(ControlState.from_json(resumed.to_json()), [each], QUICK)
        replayed += events
    assert resumed == straight
    assert replayed == announced
    assert ControlState.from_json(straight.to_json()) == straight


@settings(max_examples=80, deadline=None)
@given(walks, st.booleans(), st.floats(0, 1, exclude_max=True))
def test_invariants_of_every_walk(walk: list[Comparison], certified: bool, draw: float) -> None:
    state = shadowing(CHAMPION if certified else replace(CHAMPION, certificate=None))
    for each in walk:
        before = state.phase
        state, events = fold(state, [each], QUICK)
        changed = moves(events)
        assert state.phase is (changed[-1][1] if changed else before)
        assert len(state.window) <= QUICK.window_size
        assert QUICK.min_floor <= state.sampling.pi <= 1.0
        plan = phases.plan(state, draw, None)
        if state.phase is not Phase.SERVE or state.coaching:
            assert plan.pi == 1.0
        assert (plan.answer_from == "local_first") == (state.phase is Phase.SERVE)
        assert state.phase is not Phase.SERVE or state.tau is not None


@settings(max_examples=40, deadline=None)
@given(walks)
def test_a_walk_delivered_twice_counts_once(walk: list[Comparison]) -> None:
    twice = [copy for each in walk for copy in (each, each)]
    assert fold(shadowing(), twice, QUICK) == fold(shadowing(), walk, QUICK)
