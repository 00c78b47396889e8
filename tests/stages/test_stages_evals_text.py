"""Whether an artifact can be read: the holdout's text only where it was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from apprentice_pipeline.artifact.kolm import inspect
from apprentice_pipeline.stages import artifact, erasure, holdout
from apprentice_pipeline.stages.results import FrozenCorpus, load

STREAM = ("default", "tickets")


def shown(home: Any) -> None:
    """The home's configuration, with text asked for."""
    text = home.file.read_text(encoding="utf-8")
    home.configure(text.replace("kscore: {", "kscore: {include_text: true, "))


def packed(home: Any) -> tuple[str, dict[str, Any]]:
    """Path and evaluations of the artifact packed now from what the stages before left."""
    with home.open() as workspace:
        path = artifact.pack_and_sign(workspace, *STREAM).path
        return path, artifact.verify_file(workspace, path).evals


def test_without_being_asked_for_no_row_of_an_artifact_can_be_read(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    path, evals = packed(fork(distilled))
    assert all("text" not in row for row in evals["rows"])
    assert inspect(path)["rows_hold_text"] is False


def test_asked_for_every_row_has_its_request_and_answer_and_the_artifact_verifies(
    distilled: Any, fork: Callable[..., Any], run_apprentice: Callable[..., Any]
) -> None:
    home = fork(distilled)
    _, silent = packed(home)
    shown(home)
    path, evals = packed(home)
    with home.open() as workspace:
        frozen = load(workspace, *STREAM, FrozenCorpus)
        held = holdout.reload(workspace, *STREAM, frozen).corpus.holdout
    texts = {row["row_hash"]: row["text"] for row in evals["rows"]}
    assert len(texts) == len(held) > 0
    for row in held:
        assert texts[row.row_hash] == {"input": row.messages, "output": row.completion}
    assert [{**row, "text": None} for row in evals["rows"]] == [
        {**row, "text": None} for row in silent["rows"]
    ]
    assert evals["score"] == silent["score"]
    assert inspect(path)["rows_hold_text"] is True
    ended = run_apprentice(home, "verify", path, "--json")
    assert (ended.status, json.loads(ended.out)["verified"]) == (0, True)


def test_what_was_erased_before_packing_is_not_shown_and_the_artifact_still_verifies(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    home = fork(distilled)
    shown(home)
    with home.open() as workspace:
        frozen = load(workspace, *STREAM, FrozenCorpus)
        gone = holdout.reload(workspace, *STREAM, frozen).corpus.holdout[0]
        erasure.erase(workspace, *STREAM, gone.pair_id)
    _, evals = packed(home)
    silent = [row["row_hash"] for row in evals["rows"] if "text" not in row]
    assert silent == [gone.row_hash]
