"""Key commands: made, rotated, ended; the master key replaced; provider keys sealed."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def run(home: Any, run_apprentice: Run) -> Run:
    """`run("key", "list")`: the document that the command prints."""

    def document(*arguments: str, status: int = 0) -> Any:
        done = run_apprentice(home, *arguments, "--json")
        assert done.status == status, done.err
        return done.document

    return document


def listed(run: Run) -> dict[str, Any]:
    return {key["id"]: key for key in run("key", "list")}


def test_a_rotated_key_takes_over_and_the_old_one_ends_when_it_was_said_to(run: Run) -> None:
    old = run("key", "create", "--tenant", "acme", "--namespace", "tickets")
    new = run("key", "rotate", old["id"], "--grace", "1h")
    assert (new["replaces"], new["grace_seconds"]) == (old["id"], 3_600)
    assert {name: new[name] for name in ("tenant", "namespace", "role")} == {
        "tenant": "acme",
        "namespace": "tickets",
        "role": "capture",
    }
    assert listed(run)[old["id"]]["expires_at"] is not None
    assert listed(run)[old["id"]]["revoked_at"] is None
    last = run("key", "rotate", new["id"])
    assert listed(run)[new["id"]]["revoked_at"] is not None
    assert len({old["key"], new["key"], last["key"]}) == 3
    refused = run("key", "rotate", new["id"], status=2)
    assert "is in force" in refused["message"]


def test_the_client_that_a_key_was_made_for_is_its_label(
    home: Any, run: Run, run_apprentice: Run
) -> None:
    place = ("--provider", "openai", "--namespace", "tickets")
    made = run("capture", *place, "--as", "Web Shop №1")
    assert made["label"] == "Web Shop №1"
    assert listed(run)[made["id"]]["label"] == "Web Shop №1"
    assert "Web Shop №1" in run_apprentice(home, "key", "list").out
    rotated = run("key", "rotate", made["id"])
    assert listed(run)[rotated["id"]]["label"] == "Web Shop №1"
    refused = run("capture", *place, "--as", "two\nlines", status=2)
    assert "cannot name a key" in refused["message"]
    plain = run("key", "create", "--tenant", "acme")
    assert listed(run)[plain["id"]]["label"] is None


def test_a_key_can_be_made_to_expire(run: Run) -> None:
    made = run("key", "create", "--tenant", "acme", "--expires", "90d")
    found = listed(run)[made["id"]]
    assert (found["expires_at"][:4] >= found["created_at"][:4], found["revoked_at"]) == (True, None)
    ended = run("key", "create", "--tenant", "acme", "--expires", "0s")
    assert listed(run)[ended["id"]]["revoked_at"] is not None


@pytest.mark.parametrize("wrong", ["1", "h", "-1h", "1w", "1.5h", "1h30m", "٣h"])
def test_a_duration_that_is_none_is_refused(run: Run, wrong: str) -> None:
    refused = run("key", "create", "--tenant", "acme", "--expires", wrong, status=2)
    assert "not a duration" in refused["message"]
    assert run("key", "list") == []


def test_a_provider_key_is_sealed_replaced_listed_and_deleted(
    home: Any, run: Run, run_apprentice: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--tenant", "acme", "--provider", "openai")
    for secret in ("sk-first-7431", "sk-second-7431"):
        monkeypatch.setenv("THEIRS", secret)
        assert run("provider-key", "set", *place, "--env", "THEIRS")["sealed"] is True
    assert run("provider-key", "list") == [{"tenant": "acme", "provider": "openai"}]
    for file in home.root.rglob("*"):
        assert not file.is_file() or b"-7431" not in file.read_bytes(), file.name
    assert "sk-" not in run_apprentice(home, "provider-key", "list").out
    run("provider-key", "delete", *place)
    assert run("provider-key", "list") == []
    assert "is stored" in run("provider-key", "delete", *place, status=2)["message"]
    assert (
        "NOT_SET is not set"
        in run("provider-key", "set", *place, "--env", "NOT_SET", status=2)["message"]
    )


def test_the_master_key_is_rotated_into_its_file_or_to_the_one_given(
    home: Any, run: Run, captured: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with home.open() as workspace:
        captured(workspace, 2)
    before = run("labels", "--namespace", "tickets")
    done = run("key", "rotate-master")
    assert (done["data_keys"], done["kept_in"]) == (1, "file")
    assert run("labels", "--namespace", "tickets") == before

    new = base64.b64encode(b"n" * 32).decode()
    monkeypatch.setenv("APPRENTICE_NEW_MASTER_KEY", new)
    done = run("key", "rotate-master")
    assert (done["data_keys"], done["kept_in"]) == (1, "environment")
    assert "restart" in done["next_step"]
    refused = run("labels", "--namespace", "tickets", status=1)
    assert refused["error"] == "KeyMissing"
    assert "APPRENTICE_MASTER_KEY" in refused["remedy"]
    assert not (home.root / "keys" / "master.key").exists()

    monkeypatch.setenv("APPRENTICE_MASTER_KEY", base64.b64encode(b"w" * 32).decode())
    refused = run("labels", "--namespace", "tickets", status=1)
    assert refused["error"] == "MasterKeyChanged"
    monkeypatch.setenv("APPRENTICE_MASTER_KEY", new)
    assert run("labels", "--namespace", "tickets") == before
    assert run("key", "rotate-master")["data_keys"] == 0
    monkeypatch.setenv("APPRENTICE_NEW_MASTER_KEY", "short")
    refused = run("key", "rotate-master", status=1)
    assert "APPRENTICE_NEW_MASTER_KEY must be 32 bytes" in refused["message"]


def test_a_gateway_with_a_wrong_master_key_does_not_start_and_says_what_to_do(
    home: Any, captured: Run
) -> None:
    with home.open() as workspace:
        captured(workspace, 1)
    wrong = base64.b64encode(b"w" * 32).decode()
    done = subprocess.run(
        [sys.executable, "-m", "apprentice_pipeline.cli", "serve", "--port", "0"],
        env={**os.environ, **home.environment, "APPRENTICE_MASTER_KEY": wrong},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "not the key of this home" in done.stderr
    assert "unset it" in done.stderr
