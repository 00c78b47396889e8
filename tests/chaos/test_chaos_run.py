"""The chaos harness: what it proves, and that it would notice."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.forms import FORMS, MANNERS, Watch
from chaos.load import Delivered
from chaos.proof import Kept, Remains, judge

ROOT = Path(__file__).parents[2]
FIRST, SECOND = Delivered("chaos-00000001", "a", False), Delivered("chaos-00000002", "b", True)
BOTH = (Kept("a", "chaos-00000001", True), Kept("b", "chaos-00000002", True))


def chaos(*options: str) -> dict[str, Any]:
    """The report of a run that found nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *options, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_nothing_is_lost_doubled_or_unreadable_when_processes_are_killed_under_load() -> None:
    """A small run; `make chaos` is the whole."""
    report = chaos("--kills", "5", "--seed", "27")
    assert report["kills"] == {"worker": 2, "writer": 2, "everything": 1}
    assert report["verdict"]["delivered"] >= 30
    assert 0 < report["streamed"] < report["verdict"]["delivered"]
    assert (report["at_risk"], report["refused"]) == (0, 0)
    ways = [way.split(", ") for way in report["ways"]]
    assert {form for form, _ in ways} == {form.name for form in FORMS}
    assert {manner for _, manner in ways} == set(MANNERS)
    assert sum(report["ways"].values()) == report["verdict"]["delivered"]


def test_at_the_gateway_s_default_limit_only_late_answers_may_be_lost() -> None:
    report = chaos("--kills", "3", "--commit-timeout-ms", "250")
    assert report["timeout_ms"] == 250
    assert report["verdict"]["lost"] == 0
    assert report["verdict"]["late_lost"] <= report["verdict"]["late"]
    assert report["verdict"]["late_lost"] <= report["at_risk"]


def test_whole_remains_are_no_violation() -> None:
    """An exchange that broke off, and an answer that its client never got, may have rows too."""
    rest = (Kept("c", "chaos-00000003", False), Kept("d", "chaos-00000004", True))
    verdict = judge([FIRST, SECOND], Remains([*BOTH, *rest]))
    assert verdict.violations == 0
    assert (verdict.delivered, verdict.rows) == (2, 4)


@pytest.mark.parametrize(
    ("remains", "found"),
    [
        (Remains(BOTH[:1]), {"lost": 1}),
        (Remains([BOTH[0], Kept("b", "chaos-00000002", False)]), {"lost": 1}),
        (Remains([*BOTH, BOTH[0]]), {"doubled": 2}),
        (Remains([*BOTH, Kept("c", "chaos-00000002", True)]), {"doubled": 1}),
        (Remains([BOTH[0], Kept("b", "chaos-00000009", True)]), {"strangers": 1}),
        (Remains([*BOTH, Kept("c", "", True)]), {"unopened": 1}),
        (Remains(BOTH, unreadable_spools=1), {"unreadable_spools": 1}),
        (Remains(BOTH, rejected_rows=2), {"rejected_rows": 2}),
        (Remains(BOTH, stranded_rows=3), {"stranded_rows": 3}),
    ],
)
def test_every_violation_is_seen_and_counted(remains: Remains, found: dict[str, int]) -> None:
    verdict = judge([FIRST, SECOND], remains)
    assert verdict.violations == sum(found.values())
    assert {name: getattr(verdict, name) for name in found} == found


def test_an_answer_that_came_later_than_the_limit_was_at_risk_and_is_counted_apart() -> None:
    """Sooner and without its pair it is lost, whatever the limit."""
    late = replace(FIRST, seconds=0.25), replace(SECOND, seconds=0.24)
    verdict = judge(late, Remains([]), timeout_s=0.25, at_risk=1)
    assert (verdict.late, verdict.late_lost, verdict.lost, verdict.violations) == (1, 1, 1, 1)
    assert judge(late, Remains([])).lost == 2


def test_a_late_answer_without_its_pair_that_the_gateway_did_not_count_is_a_violation() -> None:
    late = replace(FIRST, seconds=0.25), replace(SECOND, seconds=0.26)
    verdict = judge(late, Remains(BOTH[:1]), timeout_s=0.25)
    assert (verdict.late, verdict.late_lost, verdict.uncounted, verdict.violations) == (2, 1, 1, 1)
    assert judge(late, Remains([]), timeout_s=0.25, at_risk=1).violations == 1


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_stream_is_whole_once_its_terminal_has_come_in_whatever_pieces(coding: str) -> None:
    sent = b"data: 1\n\ndata: [DONE]\n\n"
    whole = gzip.compress(sent) if coding else sent
    watch = Watch(b"[DONE]", coding)
    ends = [watch.feed(whole[at : at + 1]) for at in range(len(whole))]
    assert (ends.count(True), watch.ended) == (1, True)
    assert not Watch(b"[DONE]", coding).feed(whole[:-20])
