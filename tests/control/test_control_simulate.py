"""The controller on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from apprentice_pipeline.control.simulate import read_scenario, simulate
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
