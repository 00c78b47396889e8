"""Pairs in and out: imports, exports, labels, and verification that asks the remote model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from apprentice_pipeline.demo.frontier import FrontierSettings, RunningFrontier, start_frontier
from apprentice_pipeline.errors import TrafficError, UsageError
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages import export, importing, labelling, readiness, verification
from apprentice_pipeline.store.workspace import Workspace

SAMPLES = Path(__file__).parents[2] / "data" / "support_requests.jsonl"


def import_file(workspace: Any, file: Path, **changes: Any) -> importing.Imported:
    request = importing.Request(file, "default", "tickets")
    return importing.import_file(workspace, replace(request, **changes))


def rows(workspace: Any, **changes: Any) -> list[dict[str, Any]]:
    return list(export.rows(workspace, export.Request("default", "tickets", **changes)))


def content(found: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps([row["input"], row["output"]], sort_keys=True) for row in found)


def test_what_is_exported_can_be_imported_elsewhere_and_is_the_same(
    workspace: Any, captured: Callable[..., Any], tmp_path: Path
) -> None:
    captured(workspace, 25)
    edited = rows(workspace)[3]["pair_id"]
    labelling.record_feedback(
        workspace, "default", edited, action="edit", edit={"category": "other", "priority": 1}
    )
    file = tmp_path / "labels.jsonl"
    request = export.Request("default", "tickets")
    assert export.write_file(workspace, request, file).rows == 25
    settings = load_settings({"APPRENTICE_HOME": str(tmp_path / "elsewhere")})
    other = Workspace.open(settings)
    try:
        assert import_file(other, file) == importing.Imported(imported=25)
        assert content(rows(other)) == content(rows(workspace))
        assert {row["model"] for row in rows(other)} == {"gpt-4o"}
        assert import_file(other, file).known == 25
    finally:
        other.close()


def test_the_same_line_in_two_namespaces_is_two_pairs(workspace: Any, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'{"prompt": "hello", "completion": "hi"}\n')
    assert import_file(workspace, file).imported == 1
    assert import_file(workspace, file, namespace="others").imported == 1
    assert import_file(workspace, file, tenant="acme").imported == 1


def test_a_file_from_another_system_is_read_as_it_comes(workspace: Any, tmp_path: Path) -> None:
    """A byte order mark, Windows line ends, blank lines, no end of line at the end."""
    file = tmp_path / "history.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"prompt": "one", "completion": "1"}\r\n\r\n'
        b'{"prompt": "zwei \xe2\x82\xac", "completion": "2"}\r\n'
        b'{"prompt": "one", "completion": "1"}'
    )
    assert import_file(workspace, file) == importing.Imported(imported=3)
    assert sorted(row["output"] for row in rows(workspace)) == ["1", "1", "2"]


def test_openai_s_fine_tuning_files_are_understood(workspace: Any, tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": "my card"},
        {"role": "assistant", "content": '{"category": "billing"}'},
    ]
    file = tmp_path / "fine-tuning.jsonl"
    file.write_bytes(orjson.dumps({"messages": turns}) + b"\n")
    assert import_file(workspace, file, source="openai").imported == 1
    (row,) = rows(workspace)
    assert row["input"]["messages"] == turns[:2]
    assert row["output"] == '{"category": "billing"}'
    file.write_bytes(orjson.dumps({"messages": turns[:2]}) + b"\n")
    with pytest.raises(TrafficError, match="1 malformed lines: 1"):
        import_file(workspace, file, source="openai")


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"{}",
        b'{"prompt": 1, "completion": "x"}',
        b'{"input": {"messages": []}, "output": "x"}',
        b'{"input": {"messages": "x"}, "output": "x"}',
        b'{"input": {"messages": [{"content": "x"}]}, "output": "x"}',
        b'{"input": {"messages": [{"role": "user", "content": "x"}]}, "output": ""}',
        b'{"input": [1], "output": "x"}',
        b'{"input": 7, "output": "x"}',
        b'{"prompt": "x"}',
        b'{"input": {"messages": [{"role": "user"}], "parameters": 7}, "output": "x"}',
        b"\xff\xfe",
        b'{"messages": 7}',
        b'{"messages": [7]}',
        b'{"messages": []}',
    ],
)
@pytest.mark.parametrize("source", ["jsonl", "openai"])
def test_a_malformed_line_is_named_never_half_imported(
    line: bytes, source: str, workspace: Any, tmp_path: Path
) -> None:
    file = tmp_path / "history.jsonl"
    good = (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    )
    if source == "jsonl":
        good = b'{"prompt": "a", "completion": "b"}'
    file.write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(TrafficError, match="malformed lines: 2") as refusal:
        import_file(workspace, file, source=source)
    assert refusal.value.remedy
    assert workspace.lake.is_empty("default")


def test_an_export_can_be_cut_by_time_and_number(
    workspace: Any, captured: Callable[..., Any]
) -> None:
    captured(workspace, 5, ago_us=3 * 86_400_000_000)
    captured(workspace, 4, skip=5)
    everything = rows(workspace)
    assert len(everything) == 9
    assert [row["created_at"] for row in everything] == sorted(r["created_at"] for r in everything)
    since = everything[5]["created_at"]
    assert rows(workspace, since=since) == everything[5:]
    assert rows(workspace, until=since) == everything[:5]
    assert rows(workspace, limit=2) == everything[:2]
    assert rows(workspace, min_confidence=0.0) == []
    with pytest.raises(UsageError, match="until is not a time"):
        rows(workspace, until="soon")


def test_feedback_needs_a_pair_and_a_known_label(
    workspace: Any, captured: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="no pair nobody"):
        labelling.record_feedback(workspace, "default", "nobody", action="approve")
    (exchange,) = captured(workspace, 1)
    with pytest.raises(UsageError, match="no label"):
        labelling.record_feedback(workspace, "default", exchange.pair_id, action="praise")
    with pytest.raises(UsageError, match="no pair"):
        labelling.record_feedback(workspace, "acme", exchange.pair_id, action="approve")
    label = labelling.record_feedback(workspace, "default", exchange.pair_id, action="approve")
    assert label.namespace == "tickets"


@pytest.fixture(scope="module")
def frontier() -> Iterator[RunningFrontier]:
    answers = {}
    for line in SAMPLES.read_text(encoding="utf-8").splitlines()[:60]:
        value = json.loads(line)
        answers[value.pop("text")] = value
    settings = FrontierSettings(require_key="a-key", uncertain_share=0.0)
    with start_frontier(settings, answers) as running:
        yield running


def asking(home: Any, url: str, more: str = "") -> Workspace:
    home.configure(
        "remote: {provider: openai, model: gpt-4o, api_key_env: A_KEY, max_retries: 0,"
        f" endpoints: {{openai: '{url}', anthropic: '{url}'}}}}\n"
        "verify: {fraction: 1.0, k: 2}\n" + more
    )
    return Workspace.open(load_settings({**home.environment, "A_KEY": "a-key"}))


def test_resamples_agree_with_the_answers_the_teacher_would_give_again(
    home: Any, frontier: RunningFrontier, captured: Callable[..., Any]
) -> None:
    workspace = asking(home, frontier.url)
    try:
        captured(workspace, 11)
        for day, _ in readiness.of_stream(workspace, "default", "tickets").unverified_days:
            found = verification.verify_pending(workspace, "default", "tickets", day)
        assert (found.summary.pairs, found.summary.resampled) == (11, 11)
        # The first pair holds the canary: the frontier does not know it and answers otherwise.
        assert (found.summary.verified, found.summary.quarantined) == (10, 1)
        assert "11 pairs resampled" in found.label_noise_text
        spent = workspace.state.lifetime_spending("default", "tickets")
        assert spent["resample"][1] == 22
        assert spent["resample"][0] > 0
        confident = [row["confidence"] for row in rows(workspace, min_confidence=1.0)]
        assert confident == [1.0] * 10
    finally:
        workspace.close()


def test_a_resample_that_a_limit_cuts_is_paid_for_and_no_disagreement(
    home: Any, captured: Callable[..., Any]
) -> None:
    """The frontier cuts every answer (`finish_reason: length`)."""
    cut = {"$reply": {"text": "{", "stop": "length"}}
    asked = [json.loads(line)["text"] for line in SAMPLES.read_text().splitlines()[:20]]
    with start_frontier(FrontierSettings(), dict.fromkeys(asked, cut)) as running:
        workspace = asking(home, running.url)
        try:
            captured(workspace, 4)
            for day, _ in readiness.of_stream(workspace, "default", "tickets").unverified_days:
                found = verification.verify_pending(workspace, "default", "tickets", day)
            # The first pair holds the canary: the frontier's answer to it is whole, and another.
            assert (found.summary.verified, found.summary.resampled) == (3, 1)
            assert found.summary.failed_resamples == 6
            assert workspace.state.lifetime_spending("default", "tickets")["resample"][1] == 8
        finally:
            workspace.close()


def test_an_exhausted_budget_leaves_pairs_verified_by_structure_alone(
    home: Any, frontier: RunningFrontier, captured: Callable[..., Any]
) -> None:
    workspace = asking(home, frontier.url, "budget: {daily: 0.000001}")
    try:
        captured(workspace, 4)
        for day, _ in readiness.of_stream(workspace, "default", "tickets").unverified_days:
            found = verification.verify_pending(workspace, "default", "tickets", day)
        assert (found.summary.verified, found.summary.resampled) == (4, 0)
        assert found.summary.failed_resamples > 0
        assert found.label_noise_text == "not estimated: nothing was resampled"
        assert workspace.state.lifetime_spending("default", "tickets") == {}
    finally:
        workspace.close()
