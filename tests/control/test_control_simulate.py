"""The controller on a virtual clock."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from apprentice_pipeline.control.scenario import _RANGES, Stretch, read_scenario
from apprentice_pipeline.control.simulate import simulate
from apprentice_pipeline.control.state import Policy
from apprentice_pipeline.errors import UsageError

SCENARIO: dict[str, Any] = {
    "seed": "3",
    "holdout": 300,
    "stretches": [
        {"days": 2},
        {"days": 5, "promote": True, "agreement": 0.98},
        {"days": 5, "agreement": 0.3},
    ],
}


def test_a_task_collects_serves_and_is_suspended_when_agreement_collapses() -> None:
    table = simulate(read_scenario(SCENARIO))
    assert [row.phase for row in table[:2]] == ["collect", "collect"]
    assert table[1].spend_usd == pytest.approx(table[1].frontier_only_usd)
    served = table[5]
    assert served.phase == "serve"
    assert served.share_local > 0.3
    assert served.spend_usd < served.frontier_only_usd
    assert (served.disagreement or 0.0) <= 0.05
    assert table[-1].phase == "suspended"
    assert table[-1].served == 0


def test_the_same_scenario_gives_the_same_table() -> None:
    assert simulate(read_scenario(SCENARIO)) == simulate(read_scenario(SCENARIO))


def test_the_policy_under_test_is_the_one_given() -> None:
    strict = {**SCENARIO, "policy": {"phase2_to_phase3": 1.0}}
    assert all(row.served == 0 for row in simulate(read_scenario(strict)))


def test_the_policy_s_own_step_table_is_simulated() -> None:
    def compared(table: object) -> int:
        policy = {"decay_function": "step", "step_table": table}
        return sum(
            row.comparisons for row in simulate(read_scenario({**SCENARIO, "policy": policy}))
        )

    assert compared([{"at": 0.0, "pi": 0.05}]) < compared([{"at": 0.0, "pi": 1.0}])
    with pytest.raises(UsageError, match=r"policy\.step_table: .* rising in at"):
        compared([{"at": 0.5, "pi": 0.1}, {"at": 0.2, "pi": 0.1}])


def test_ineligible_requests_stay_remote() -> None:
    closed = [{**SCENARIO["stretches"][1], "ineligible_share": 1.0}]
    table = simulate(read_scenario({**SCENARIO, "stretches": closed}))
    assert all(row.comparisons == 0 and row.phase == "shadow" for row in table)


def test_all_faults_of_a_scenario_are_named_together() -> None:
    with pytest.raises(UsageError) as caught:
        read_scenario({"stretches": [{"dayz": 1}, {"days": "x"}, 7], "polic": {}, "holdout": -1})
    for fault in ("dayz", "'x' is not a int", "stretches[2]", "polic", "holdout"):
        assert fault in str(caught.value)
    with pytest.raises(UsageError, match="at least one"):
        read_scenario({})


@pytest.mark.parametrize(
    ("where", "values"),
    [
        ("stretch", {"agreement": (1.01, -0.1, float("inf"), float("nan"))}),
        ("stretch", {"ineligible_share": (1.5, -1), "days": (0, -3), "requests_per_day": (-1,)}),
        ("scenario", {"chance": (2, -0.5), "holdout": (-1,), "remote_cost_usd": (-0.01, 1e9)}),
        ("policy", {"max_disagreement": (0, 1, 1.5), "risk_delta": (0.0, 1), "arl": (1, -5)}),
        ("policy", {"window_size": (0,), "min_floor": (-0.1, 2), "coaching_trigger": (1.0,)}),
        ("policy", {"confidence_delta": (0, 1), "trend_sensitivity": (-1, 2)}),
        ("policy", {"emergency_threshold": (7,), "phase2_to_phase3": (1.1,)}),
    ],
)
def test_a_number_out_of_its_range_is_named_with_the_range(
    where: str, values: dict[str, tuple[float, ...]]
) -> None:
    for name, wrong in values.items():
        for value in wrong:
            plain: dict[str, Any] = {"stretches": [{}], "policy": {}}
            place = {"stretch": plain["stretches"][0], "policy": plain["policy"]}
            place.get(where, plain)[name] = value
            with pytest.raises(UsageError, match=rf"{name}: .* is not (from|above) ") as caught:
                read_scenario(plain)
            assert "docs/CONFIGURATION.md" in caught.value.remedy


def test_thresholds_that_do_not_rise_are_a_fault() -> None:
    with pytest.raises(UsageError, match="thresholds must rise"):
        read_scenario({"stretches": [{}], "policy": {"emergency_threshold": 0.8}})


def test_every_number_has_its_range_and_its_default_lies_within() -> None:
    assert read_scenario({"stretches": [{}]}).policy == Policy()
    for record in (Stretch(), Policy(), read_scenario({"stretches": [{}]})):
        for each in fields(record):
            if each.type in ("int", "float"):
                assert _RANGES[each.name].holds(getattr(record, each.name))
