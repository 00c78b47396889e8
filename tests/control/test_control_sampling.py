"""The keyed draw and the decay of the sampling probability."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.config import Config
from apprentice_pipeline.config_file import parse_config
from apprentice_pipeline.control.sampling import (
    Decay,
    Sampling,
    SamplingSettings,
    decayed,
    keyed_draw,
    sampling_probability,
)
from apprentice_pipeline.control.state import Policy
from apprentice_pipeline.routing.champion import policy_of

kappas = st.floats(-1.0, 1.0)
decays = st.sampled_from(["exponential", "linear", "step"])


@given(st.binary(min_size=1, max_size=32), st.uuids().map(str))
def test_a_draw_is_reproducible_and_lies_in_the_unit_interval(key: bytes, name: str) -> None:
    draw = keyed_draw(key, name)
    assert 0.0 <= draw < 1.0
    assert draw == keyed_draw(key, name)


def test_draws_are_uniform_and_another_key_draws_otherwise() -> None:
    draws = [keyed_draw(b"key", f"request-{i}") for i in range(4000)]
    for tenth in range(10):
        share = sum(tenth / 10 <= draw < (tenth + 1) / 10 for draw in draws) / len(draws)
        assert share == pytest.approx(0.1, abs=0.02)
    assert keyed_draw(b"other", "request-0") != draws[0]


@given(kappas, kappas, decays, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_pi_stays_between_floor_and_one_and_never_rises_with_agreement(
    a: float, b: float, decay: Decay, floor: float, trigger: float
) -> None:
    settings = SamplingSettings(trigger, decay, floor)
    low, high = sorted((a, b))
    assert floor <= decayed(high, settings) <= decayed(low, settings) <= 1.0


@pytest.mark.parametrize("decay", ["exponential", "linear", "step"])
def test_everything_is_sampled_at_the_coaching_trigger_and_the_floor_at_one(decay: Decay) -> None:
    settings = SamplingSettings(0.7, decay, 0.02)
    assert decayed(0.7, settings) == 1.0
    assert decayed(1.0, settings) == pytest.approx(0.02)


def test_the_middle_is_the_formula() -> None:
    """u = .5 at kappa .85 with the trigger at .70."""
    assert decayed(0.85, SamplingSettings(0.7, "linear", 0.02)) == pytest.approx(0.51)
    assert decayed(0.85, SamplingSettings(0.7, "exponential", 0.02)) == pytest.approx(0.02**0.5)
    assert decayed(0.851, SamplingSettings(0.7, "step", 0.02)) == 0.25


def test_a_table_of_one_s_own_is_read_by_step_alone_and_never_goes_below_the_floor() -> None:
    """u = 0, .2, .5 and 1 at kappa .70, .76, .85 and 1."""
    table = ((0.1, 0.6), (0.5, 0.01))
    settings = SamplingSettings(0.7, "step", 0.02, steps=table)
    assert [decayed(k, settings) for k in (0.7, 0.76, 0.86, 1.0)] == [1.0, 0.6, 0.02, 0.02]
    assert Policy(decay_function="step", step_table=table).sampling.steps == table
    linear = replace(settings, decay_function="linear")
    assert decayed(0.85, linear) == decayed(0.85, SamplingSettings(0.7, "linear", 0.02))


def test_the_configured_table_is_the_policy_s() -> None:
    config = parse_config(
        "sampling: {decay_function: step, step_table: [{at: 0.3, pi: 0.4}]}", source="x"
    )
    assert policy_of(config, "any").sampling.steps == ((0.3, 0.4),)
    assert policy_of(Config(), "any").sampling.steps == SamplingSettings().steps


def test_a_change_below_the_sensitivity_does_not_move_pi_but_a_creep_adds_up() -> None:
    settings = SamplingSettings()
    first = sampling_probability(0.90, Sampling(), settings, None, 0)
    still = sampling_probability(0.94, first, settings, None, 0)
    moved = sampling_probability(0.95, still, settings, None, 0)
    assert still == first
    assert moved.pi < first.pi


def test_full_sampling_is_forced_until_its_time_and_without_a_kappa() -> None:
    before = Sampling(0.02, 1.0)
    assert sampling_probability(1.0, before, SamplingSettings(), 100, 99).pi == 1.0
    assert sampling_probability(1.0, before, SamplingSettings(), 100, 100).pi == 0.02
    assert sampling_probability(None, before, SamplingSettings(), None, 0).pi == 1.0
