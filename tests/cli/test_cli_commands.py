"""The commands on a fresh home: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
SCENARIO = """
requests: 1
"""
STRETCHES = """
stretches:
  - {days: 2, agreement: 0.97, requests_per_day: 50}
  - {days: 3, agreement: 0.97, promote: true, requests_per_day: 50}
"""
LINE = {
    "input": {"messages": [{"role": "user", "content": "where is my parcel?"}]},
    "output": '{"category": "shipping"}',
    "model": "gpt-4o",
}


def write_lines(file: Path, *lines: Any) -> str:
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return str(file)


def counts(**said: int) -> dict[str, int]:
    return {**dict.fromkeys(("imported", "known", "skipped", "passed", "erased"), 0), **said}


@pytest.mark.parametrize(
    "arguments",
    [
        "status",
        "status --task tickets",
        "report",
        "report --format json",
        "report --format html",
        "capture status",
        "capture status --namespace tickets",
        "key list",
        "key create --tenant acme",
        "capture --provider openai --as web --namespace tickets",
        "labels --namespace tickets",
        "erase --namespace tickets --all",
        "erase --tenant acme",
        "doctor",
    ],
)
def test_on_a_fresh_home_a_command_prints_one_json_document(
    arguments: str, home: Any, run_apprentice: Run
) -> None:
    done = run_apprentice(home, *arguments.split(), "--json")
    assert done.status == 0, done.err
    assert done.document is not None
    assert len(done.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        ("distill --namespace tickets", 1, "TooFewPairs"),
        ("demo --base-model ./nodir", 1, "BaseModelMissing"),
        ("demo --base-model a--b/c", 1, "BaseModelMissing"),
        ("promote --namespace tickets", 1, "RegistryError"),
        ("rollback --namespace tickets", 1, "RegistryError"),
        ("feedback 0198-none --approve", 2, "UsageError"),
        ("feedback 0198-none", 2, "UsageError"),
        ("feedback 0198-none --edit {oops", 2, "UsageError"),
        ("feedback 0198-none --edit null", 2, "UsageError"),
        ("feedback 0198-none --approve --reject", 2, "UsageError"),
        ("feedback 0198-none --approve --edit {}", 2, "UsageError"),
        ("feedback 0198-none --reject --edit 1", 2, "UsageError"),
        ("capture --provider openai", 2, "UsageError"),
        ("capture --provider skynet --as a --namespace b", 2, "UsageError"),
        ("key revoke nobody", 2, "UsageError"),
        ("key create --tenant Bad.Name", 2, "UsageError"),
        ("key create --tenant a --provider openai", 2, "UsageError"),
        ("key create --tenant a --provider openai --provider-key-env NOT_SET", 2, "UsageError"),
        ("labels --namespace tickets --format parquet", 2, "UsageError"),
        ("labels --namespace tickets --since yesterday", 2, "UsageError"),
        ("labels --namespace ../etc", 2, "UsageError"),
        ("distill --namespace tickets --target-size huge", 2, "UsageError"),
        ("erase", 2, "UsageError"),
        ("erase --namespace tickets", 2, "UsageError"),
        ("erase --namespace tickets --pair x --all", 2, "UsageError"),
        ("run no_such_task --input {}", 2, "UsageError"),
        ("run no_such_task --input oops", 2, "UsageError"),
        ("inspect absent.kolm", 2, "UsageError"),
        ("frobnicate", 2, "UsageError"),
        ("status --frobnicate", 2, "UsageError"),
    ],
)
def test_what_cannot_be_done_says_so_and_what_to_do(
    arguments: str, status: int, error: str, home: Any, run_apprentice: Run
) -> None:
    done = run_apprentice(home, *arguments.split(), "--json")
    assert (done.status, done.document["error"]) == (status, error)
    assert done.document["message"]
    assert done.document["remedy"]
    assert done.document["message"].splitlines()[0] in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--task", "Bad Name/.."),
        ("status", "--tenant", "../x"),
        ("report", "--tenant", "../x"),
        ("capture", "status", "--namespace", "../x"),
        ("capture", "status", "--tenant", "../x"),
        ("erase", "--tenant", "../x"),
        ("erase", "--namespace", "../x", "--all"),
    ],
)
def test_a_name_that_is_none_is_a_usage_error_and_makes_no_folder(
    arguments: tuple[str, ...], home: Any, run_apprentice: Run
) -> None:
    done = run_apprentice(home, *arguments, "--json")
    assert (done.status, done.document["error"]) == (2, "UsageError")
    assert "cannot name a" in done.document["message"]
    assert not home.root.exists()


@pytest.mark.parametrize("command", ["status --task", "capture status --namespace"])
def test_a_stream_that_does_not_exist_is_told_from_those_that_do(
    command: str, home: Any, captured: Any, run_apprentice: Run
) -> None:
    """A declared task and a key's namespace are streams before their first pair."""
    home.configure("tasks: [{name: declared}]\n")
    with home.open() as workspace:
        captured(workspace, 3)
    run_apprentice(home, "capture", "--provider", "openai", "--as", "a", "--namespace", "keyed")
    done = run_apprentice(home, *command.split(), "tikets", "--json")
    assert (done.status, done.document["error"]) == (1, "UnknownStream")
    assert "unknown: default.tikets" in done.document["message"]
    assert "declared, keyed, tickets" in done.document["message"]
    for known in ("declared", "keyed", "tickets"):
        assert run_apprentice(home, *command.split(), known).status == 0


@pytest.mark.parametrize("arguments", ["capture status", "capture status --namespace tickets"])
def test_a_fresh_home_says_what_to_do_next(arguments: str, home: Any, run_apprentice: Run) -> None:
    done = run_apprentice(home, *arguments.split())
    assert done.status == 0
    assert "nothing captured yet" in done.out
    assert "apprentice serve" in done.out


def test_without_json_an_error_leaves_stdout_empty(home: Any, run_apprentice: Run) -> None:
    done = run_apprentice(home, "distill", "--namespace", "tickets")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert "→ capture more traffic" in done.err


def test_every_command_explains_itself(home: Any, run_apprentice: Run) -> None:
    from apprentice_pipeline.cli.main import apprentice

    names = set(apprentice.commands)
    assert {
        *("init", "serve", "capture", "labels", "import", "distill", "inspect", "verify", "diff"),
        *("promote", "rollback", "run", "status", "report", "feedback", "erase", "simulate"),
        *("key", "doctor", "demo"),
    } <= names
    for name in names:
        done = run_apprentice(home, name, "--help")
        assert done.status == 0
        assert "--help" in done.out
    assert run_apprentice(home, "--version").out.startswith("apprentice, version ")


def test_a_faulty_configuration_fails_every_command_with_all_its_lines(
    home: Any, run_apprentice: Run
) -> None:
    home.configure("taks: []\nverify: {fraction: 7}\n")
    done = run_apprentice(home, "status", "--json")
    assert (done.status, done.document["error"]) == (1, "ConfigError")
    assert "line 1: taks: unknown key" in done.document["message"]
    assert "line 2: verify.fraction" in done.document["message"]
    doctor = run_apprentice(home, "doctor", "--json")
    assert doctor.status == 1
    assert doctor.document["ok"] is False


def test_init_writes_a_file_once(
    home: Any, run_apprentice: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert run_apprentice(home, "init").status == 0
    file = folder / "apprentice.yaml"
    home.configure(file.read_text())
    assert "classify_ticket" in run_apprentice(home, "status").out
    file.write_text("# mine\n")
    again = run_apprentice(home, "init")
    assert (again.status, file.read_text()) == (2, "# mine\n")
    assert "--force" in again.err
    assert run_apprentice(home, "init", "--force", "--json").document == {"path": "apprentice.yaml"}
    assert file.read_text() != "# mine\n"


def test_a_fresh_status_says_what_to_do_next(home: Any, run_apprentice: Run) -> None:
    done = run_apprentice(home, "status")
    assert "nothing captured yet" in done.out
    assert "`apprentice serve`" in done.out
    assert "`apprentice demo`" in done.out
    home.configure("tasks: [{name: classify_ticket}]")
    declared = run_apprentice(home, "status")
    assert "classify_ticket: collect" in declared.out
    assert "next: keep capturing: " in declared.out
    assert "eta_days=unknown" in declared.out


def test_capture_prints_the_one_change_of_each_sdk(home: Any, run_apprentice: Run) -> None:
    for provider, base in (
        ("openai", "http://127.0.0.1:8710/v1/capture/openai/v1"),
        ("anthropic", "http://127.0.0.1:8710/v1/capture/anthropic"),
        ("gemini", "http://127.0.0.1:8710/v1/capture/gemini"),
    ):
        arguments = ("--provider", provider, "--as", "web", "--namespace", "tickets")
        document = run_apprentice(home, "capture", *arguments, "--json").document
        assert document["base_url"] == base
        assert document["header"] == f"x-apprentice-key: {document['key']}"
        text = run_apprentice(home, "capture", *arguments).out
        assert f'base_url="{base}"' in text or f'"base_url": "{base}"' in text
        assert "x-apprentice-key" in text
    listed = run_apprentice(home, "key", "list", "--json").document
    assert {(k["role"], k["namespace"]) for k in listed} == {("capture", "tickets")}


def test_keys_are_created_listed_without_their_secret_and_revoked(
    home: Any, run_apprentice: Run
) -> None:
    made = run_apprentice(home, "key", "create", "--tenant", "acme", "--json").document
    assert made["key"].startswith("ak_")
    assert (made["tenant"], made["namespace"], made["role"]) == ("acme", None, "tenant")
    narrow = run_apprentice(
        home, "key", "create", "--tenant", "acme", "--namespace", "tickets", "--json"
    ).document
    assert (narrow["namespace"], narrow["role"]) == ("tickets", "capture")
    assert run_apprentice(home, "key", "revoke", made["id"], "--json").document["revoked"] is True
    again = run_apprentice(home, "key", "revoke", made["id"])
    assert again.status == 2
    listed = run_apprentice(home, "key", "list", "--json")
    assert made["key"] not in listed.out
    revoked = {key["id"]: key["revoked_at"] is not None for key in listed.document}
    assert revoked == {made["id"]: True, narrow["id"]: False}
    assert made["key"].encode() not in (home.root / "state.db").read_bytes()
    assert narrow["id"] in run_apprentice(home, "key", "list").out


def test_a_provider_key_is_sealed_on_the_server(
    home: Any, run_apprentice: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-their-secret")
    arguments = ("--tenant", "acme", "--provider", "openai", "--provider-key-env", "THEIR_KEY")
    done = run_apprentice(home, "key", "create", *arguments, "--json")
    assert done.status == 0
    assert "sk-their-secret" not in done.out + done.err
    for file in home.root.rglob("*"):
        assert not file.is_file() or b"sk-their-secret" not in file.read_bytes(), file
    with home.open() as workspace:
        sealed = workspace.state.provider_key("acme", "openai")
        opened = workspace.vault.open(
            sealed, tenant="acme", namespace="", pair_id="openai", field="provider-key"
        )
    assert opened == b"sk-their-secret"


def test_history_is_imported_once_and_comes_out_as_labels(
    home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "history.jsonl", LINE, {"prompt": "hello", "completion": "hi"})
    first = run_apprentice(home, "import", file, "--namespace", "tickets", "--json")
    assert first.document == counts(imported=2)
    again = run_apprentice(home, "import", file, "--namespace", "tickets", "--json")
    assert again.document == counts(known=2)
    printed = run_apprentice(home, "labels", "--namespace", "tickets")
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert sorted(row["output"] for row in rows) == ["hi", '{"category": "shipping"}']
    assert run_apprentice(home, "labels", "--namespace", "tickets", "--json").document == rows


def test_malformed_lines_are_named_and_skipped_only_when_asked(
    home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "history.jsonl", LINE, "not json", [1], {"input": {}}, "")
    refused = run_apprentice(home, "import", file, "--namespace", "tickets", "--json")
    assert (refused.status, refused.document["error"]) == (1, "TrafficError")
    assert "3 malformed lines: 2, 3, 4" in refused.document["message"]
    assert "--skip-bad" in refused.document["remedy"]
    assert run_apprentice(home, "labels", "--namespace", "tickets", "--json").document == []
    skipped = run_apprentice(home, "import", file, "--namespace", "tickets", "--skip-bad", "--json")
    assert skipped.document == counts(imported=1, skipped=3)


def test_labels_are_written_as_parquet_for_their_owner_alone(
    home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    file = write_lines(tmp_path / "history.jsonl", LINE)
    run_apprentice(home, "import", file, "--namespace", "tickets")
    out = tmp_path / "labels.parquet"
    arguments = ("--namespace", "tickets", "--format", "parquet", "--out", str(out))
    done = run_apprentice(home, "labels", *arguments, "--json")
    assert done.document == {
        "path": str(out),
        "rows": 1,
        "format": "parquet",
        "style": "pairs",
        "left_out": {},
    }
    (row,) = pq.read_table(out).to_pylist()
    assert (row["namespace"], row["verdict"], row["output"]) == (
        "tickets",
        "unverified",
        '{"category": "shipping"}',
    )
    assert json.loads(row["input"])["messages"] == LINE["input"]["messages"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    nowhere = run_apprentice(
        home, "labels", "--namespace", "tickets", "--out", str(tmp_path / "no" / "x.jsonl")
    )
    assert nowhere.status == 2
    assert "cannot write" in nowhere.err


def test_feedback_is_what_labels_then_say(home: Any, run_apprentice: Run, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "history.jsonl", LINE)
    run_apprentice(home, "import", file, "--namespace", "tickets")
    (row,) = run_apprentice(home, "labels", "--namespace", "tickets", "--json").document

    def labelled(*arguments: str) -> tuple[str, Any]:
        done = run_apprentice(home, "feedback", row["pair_id"], *arguments, "--json")
        assert done.status == 0, done.err
        (found,) = run_apprentice(home, "labels", "--namespace", "tickets", "--json").document
        return found["verdict"], found["output"]

    assert labelled("--reject") == ("rejected", row["output"])
    assert labelled("--approve") == ("approved", row["output"])
    for refused in (["--approve", "--reject"], ["--reject", "--edit", "1"], ["--edit", "null"]):
        done = run_apprentice(home, "feedback", row["pair_id"], *refused, "--json")
        assert (done.status, done.document["error"]) == (2, "UsageError")
    assert labelled("--edit", '{"category": "billing"}') == ("approved", {"category": "billing"})


def test_an_erased_pair_is_gone_from_every_export(
    home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    lines = [LINE, {"prompt": "hello", "completion": "hi"}]
    file = write_lines(tmp_path / "history.jsonl", *lines)
    run_apprentice(home, "import", file, "--namespace", "tickets")
    rows = run_apprentice(home, "labels", "--namespace", "tickets", "--json").document
    one = rows[0]["pair_id"]
    done = run_apprentice(home, "erase", "--namespace", "tickets", "--pair", one, "--json")
    assert done.document["pairs"] == 1
    left = run_apprentice(home, "labels", "--namespace", "tickets", "--json").document
    assert [row["pair_id"] for row in left] == [rows[1]["pair_id"]]
    everything = run_apprentice(home, "erase", "--tenant", "default")
    assert everything.status == 0
    assert "erased 1 pairs of tenant default" in everything.out
    assert run_apprentice(home, "labels", "--namespace", "tickets", "--json").document == []


def test_simulate_shows_a_row_a_day(home: Any, run_apprentice: Run, tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(STRETCHES)
    days = run_apprentice(home, "simulate", str(file), "--json").document
    assert [day["day"] for day in days] == [0, 1, 2, 3, 4]
    assert days[0]["phase"] == "collect"
    assert len(run_apprentice(home, "simulate", str(file)).out.splitlines()) == 6
    file.write_text(SCENARIO)
    refused = run_apprentice(home, "simulate", str(file), "--json")
    assert refused.status == 2
    assert "stretches: at least one is needed" in refused.document["message"]


def test_the_doctor_tells_what_is_missing_with_its_remedy(home: Any, run_apprentice: Run) -> None:
    done = run_apprentice(home, "doctor", "--json")
    findings = {finding["what"]: finding for finding in done.document["findings"]}
    assert {"Python", "extra train", "extra orchestration", "extra registry", "disk"} <= set(
        findings
    )
    assert done.document["ok"] is True
    assert all(finding["remedy"] for finding in findings.values() if not finding["ok"])
    assert not home.root.exists()


def test_a_report_is_written_where_it_is_asked_for(
    home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    done = run_apprentice(home, "report", "--format", "html", "--out", str(out), "--json")
    assert done.document == {"path": str(out)}
    assert out.read_text().startswith("<!doctype html>")
    nowhere = run_apprentice(home, "report", "--out", str(tmp_path / "no" / "x"), "--json")
    assert nowhere.status == 1
    assert nowhere.document["remedy"]


def test_the_module_runs_as_the_command(home: Any) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "apprentice_pipeline.cli", *arguments],
            env=os.environ | home.environment | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )

    made = run("key", "create", "--tenant", "acme", "--json")
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    listed = run("key", "list")
    assert json.loads(made.stdout)["id"] in listed.stdout
    assert run("key", "revoke", "nobody").returncode == 2
    assert stat.S_IMODE((home.root / "keys" / "master.key").stat().st_mode) == 0o600
