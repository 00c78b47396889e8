"""The commands about a real artifact: what `distill` prints, and what a `.kolm` proves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.stages import promotion, results

pytestmark = pytest.mark.timeout(1_200)
Run = Callable[..., Any]


def artifact_of(home: Any) -> Path:
    with home.open() as workspace:
        signed = results.load(workspace, "default", "tickets", results.SignedArtifact)
    return Path(signed.path)


def test_distill_prints_what_it_made(redistilled: Any) -> None:
    ended = redistilled.facts["distill"]
    assert ended.status == 0, ended.err
    document = ended.document
    assert (document["namespace"], document["version"], document["alias"]) == (
        "tickets",
        2,
        "champion",
    )
    assert document["trained_pairs"] >= 100
    assert document["holdout"] >= 10
    assert 0 <= document["fidelity_low"] <= document["fidelity"] <= document["fidelity_high"] <= 1
    assert Path(document["artifact"]) == artifact_of(redistilled)
    assert "DEBUG" not in ended.err


def test_the_newest_version_serves_after_distill(redistilled: Any) -> None:
    with redistilled.open() as workspace:
        champion = workspace.state.champion("default", "tickets")
        versions = promotion.open_registry(workspace).versions("default", "tickets")
    assert champion is not None
    assert champion.version == 2
    assert [(v.version, v.aliases) for v in versions] == [(2, ("champion",)), (1, ())]


def test_verify_proves_the_artifact_and_says_that_no_mac_was_checked(
    distilled: Any, run_apprentice: Run
) -> None:
    file = artifact_of(distilled)
    document = run_apprentice(distilled, "verify", str(file), "--json").document
    assert (document["verified"], document["namespace"]) == (True, "tickets")
    text = run_apprentice(distilled, "verify", str(file)).out
    assert "six links hold; MAC not checked" in text
    assert "recomputed from the rows' scores" in text
    pinned = str(distilled.root / "keys" / "signing.pub")
    assert run_apprentice(distilled, "verify", str(file), "--public-key", pinned).status == 0


def test_a_changed_artifact_does_not_verify(
    distilled: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    data = bytearray(artifact_of(distilled).read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "changed.kolm"
    changed.write_bytes(bytes(data))
    for command in ("verify", "inspect"):
        ended = run_apprentice(distilled, command, str(changed), "--json")
        assert (ended.status, ended.document["error"]) == (1, "ArtifactError")
        assert ended.document["remedy"]
    noise = tmp_path / "noise.kolm"
    noise.write_bytes(b"PK not a zip")
    assert run_apprentice(distilled, "inspect", str(noise)).status == 1


def test_another_home_does_not_trust_it_but_can_be_told_the_key(
    distilled: Any, home: Any, run_apprentice: Run
) -> None:
    file = str(artifact_of(distilled))
    stranger = run_apprentice(home, "verify", file, "--json")
    assert stranger.status == 1
    assert stranger.document["error"] == "ArtifactError"
    assert stranger.document["remedy"]
    pinned = str(distilled.root / "keys" / "signing.pub")
    assert run_apprentice(home, "verify", file, "--public-key", pinned).status == 0


def test_inspect_shows_what_the_file_says_of_itself(distilled: Any, run_apprentice: Run) -> None:
    file = artifact_of(distilled)
    document = run_apprentice(distilled, "inspect", str(file), "--json").document
    assert document["verified"] is False
    assert [link["link"] for link in document["receipt"]] == [
        "corpus",
        "verifier",
        "holdout",
        "score",
        "model",
        "build",
    ]
    assert document["manifest"]["tenant"] == "default"
    text = run_apprentice(distilled, "inspect", str(file)).out
    assert "signature: not checked" in text


def test_diff_names_what_changed_between_two_versions(
    redistilled: Any, run_apprentice: Run
) -> None:
    with redistilled.open() as workspace:
        registry = promotion.open_registry(workspace)
        new, old = (
            str(registry.fetch(version)) for version in registry.versions("default", "tickets")
        )
    document = run_apprentice(redistilled, "diff", old, new, "--json").document
    assert "merkle_root" in document["receipt"]["corpus"]
    assert "adapter/adapter_model.safetensors" in document["members"]
    text = run_apprentice(redistilled, "diff", old, new).out
    assert "merkle_root" in text
    assert "link" in text.splitlines()[0]
    assert "no difference" in run_apprentice(redistilled, "diff", old, old).out


def test_rollback_and_promote_by_command(
    redistilled: Any, fork: Callable[..., Any], run_apprentice: Run
) -> None:
    home = fork(redistilled)
    back = run_apprentice(home, "rollback", "--namespace", "tickets", "--json")
    assert back.document["version"] == 1, back.err
    assert "version 1" in run_apprentice(home, "status").out
    forward = run_apprentice(home, "promote", "--namespace", "tickets", "--version", "2")
    assert forward.status == 0, forward.err
    assert "version 2 is champion of default.tickets; it starts in shadow" in forward.out
    unknown = run_apprentice(home, "promote", "--namespace", "tickets", "--version", "9", "--json")
    assert (unknown.status, unknown.document["error"]) == (1, "RegistryError")


def test_reports_of_a_distilled_stream_come_in_three_forms(
    redistilled: Any, run_apprentice: Run
) -> None:
    text = run_apprentice(redistilled, "report").out
    assert "tickets: shadow, version 2" in text
    (stream,) = run_apprentice(redistilled, "report", "--format", "json").document["streams"]
    assert (stream["namespace"], stream["version"]) == ("tickets", 2)
    html = run_apprentice(redistilled, "report", "--format", "html").out
    assert "<td>tickets</td>" in html
    one = run_apprentice(redistilled, "status", "--task", "tickets", "--json").document
    assert len(one["streams"]) == 1


def test_erase_by_command_names_the_versions_it_marked(
    distilled: Any, fork: Callable[..., Any], run_apprentice: Run
) -> None:
    home = fork(distilled)
    (first, *_) = run_apprentice(home, "labels", "--namespace", "tickets", "--json").document
    done = run_apprentice(home, "erase", "--namespace", "tickets", "--all", "--json")
    assert done.document["pairs"] == 120
    assert done.document["marked_versions"] == ["default.tickets/1"]
    gone = run_apprentice(home, "feedback", first["pair_id"], "--approve")
    assert gone.status == 2


def test_a_base_given_on_the_command_line_is_trained_though_the_configured_trainer_is_not_there(
    home: Any, captured: Run, run_apprentice: Run
) -> None:
    """The contract's `local` section as it stands, but for the base."""
    home.configure(
        "local: {backend: ollama, base_model: 'llama3.1:8b', fine_tune_backend: unsloth}\n"
        "distill: {threshold: 60, epochs: 1, holdout_fraction: 0.2, rank: 4}\n"
        "kscore: {gate: 0.0, min_fidelity: 0.0, min_holdout: 10, bootstrap: 100}\n"
        "serving: {promotion: review}\n"
        "verify: {fraction: 0}\n"
    )
    with home.open() as workspace:
        captured(workspace, 120)
    refused = run_apprentice(home, "distill", "--namespace", "tickets")
    assert refused.status == 1
    assert "--base-model embedded" in refused.err
    ended = run_apprentice(
        home, "distill", "--namespace", "tickets", "--base-model", "embedded", "--json"
    )
    assert ended.status == 0, ended.err
    assert "unsloth is not installed: huggingface trains" in ended.err
    assert Path(ended.document["artifact"]).exists()
