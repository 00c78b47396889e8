"""Imports: once each, all or nothing, whatever the file's form, and nothing said of content."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import TrafficError
from apprentice_pipeline.stages import erasure, export, importing
from apprentice_pipeline.stages.importing import Imported

CANARY = "zanzibar-canary-9921"
AT = "2025-10-09T08:53:20Z"


def plain(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {number}", "completion": f"answer {number}", **more}


def lines(file: Path, *records: Any) -> Path:
    texts = (record if isinstance(record, str) else json.dumps(record) for record in records)
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return file


def bring(workspace: Any, file: Path, **changes: Any) -> Imported:
    request = importing.Request(file, "default", "tickets")
    return importing.import_file(workspace, replace(request, **changes))


def rows(workspace: Any) -> list[dict[str, Any]]:
    return list(export.rows(workspace, export.Request("default", "tickets")))


def test_equal_lines_are_as_many_pairs_and_a_second_import_adds_none(
    workspace: Any, tmp_path: Path
) -> None:
    file = lines(tmp_path / "a.jsonl", plain(1), plain(2), plain(1), plain(1), plain(3))
    assert bring(workspace, file) == Imported(imported=5)
    assert bring(workspace, file) == Imported(known=5)
    assert len(rows(workspace)) == len({row["pair_id"] for row in rows(workspace)}) == 5


def test_a_log_that_grew_adds_only_its_new_lines(workspace: Any, tmp_path: Path) -> None:
    log = [plain(1), plain(1), plain(2)]
    assert bring(workspace, lines(tmp_path / "a.jsonl", *log)).imported == 3
    grown = lines(tmp_path / "b.jsonl", *log, plain(1), plain(4))
    assert bring(workspace, grown) == Imported(imported=2, known=3)


def test_one_call_exported_twice_under_its_id_is_one_pair(workspace: Any, tmp_path: Path) -> None:
    first = lines(tmp_path / "a.jsonl", plain(1, id="x"), plain(1, id="y"), plain(1, id="x"))
    assert bring(workspace, first) == Imported(imported=2, known=1)
    assert bring(workspace, lines(tmp_path / "b.jsonl", plain(1, id="y"))) == Imported(known=1)


def test_batches_do_not_change_what_is_imported(
    workspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 3)
    file = lines(tmp_path / "a.jsonl", *(plain(number % 7) for number in range(20)))
    assert bring(workspace, file) == Imported(imported=20)
    assert bring(workspace, file) == Imported(known=20)


def test_an_import_that_was_cut_short_is_finished_by_repeating_it(
    workspace: Any, tmp_path: Path
) -> None:
    whole = [plain(number % 3) for number in range(9)]
    bring(workspace, lines(tmp_path / "part.jsonl", *whole[:5]))
    file = lines(tmp_path / "whole.jsonl", *whole)
    assert bring(workspace, file) == Imported(imported=4, known=5)


def test_what_the_source_knew_is_kept(workspace: Any, tmp_path: Path) -> None:
    facts = {"created_at": AT, "model": "gpt-4o", "input_tokens": 9, "output_tokens": 2,
             "cost_usd": 0.5, "latency_us": 77}  # fmt: skip
    bring(workspace, lines(tmp_path / "a.jsonl", plain(1, **facts)))
    (row,) = rows(workspace)
    assert row["created_at"] == "2025-10-09T08:53:20.000000Z"
    assert {name: row[name] for name in facts if name != "created_at"} == {
        name: value for name, value in facts.items() if name != "created_at"
    }
    (stored,) = workspace.lake.sql("default", "select origin, date, is_pair from captures")
    assert stored == {"origin": "import", "date": "2025-10-09", "is_pair": True}


def test_malformed_records_are_numbered_never_quoted_and_nothing_is_imported(
    workspace: Any, tmp_path: Path
) -> None:
    bad = json.dumps({"prompt": CANARY})
    file = lines(tmp_path / "a.jsonl", plain(1), bad, f'{{"{CANARY}', plain(2), *["7"] * 20)
    with pytest.raises(TrafficError) as refused:
        bring(workspace, file)
    said = f"{refused.value} {refused.value.remedy}"
    assert "22 malformed lines: 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, …" in said
    assert CANARY not in said
    assert workspace.lake.is_empty("default")
    assert bring(workspace, file, skip_bad=True) == Imported(imported=2, skipped=22)


def observation(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"o{number}", "type": "GENERATION", "startTime": AT, "model": "gpt-4o",
            "input": f"question {number}", "output": f"answer {number}", **more}  # fmt: skip


@pytest.mark.parametrize("form", ["lines", "array", "indented", "page", "csv", "gzip"])
def test_an_export_is_read_in_every_form_it_comes_in(
    form: str, workspace: Any, tmp_path: Path
) -> None:
    found = [observation(1), observation(2, type="SPAN"), observation(3)]
    file = tmp_path / {"csv": "a.csv", "lines": "a.jsonl", "gzip": "a.jsonl.gz"}.get(form, "a.json")
    text = "".join(json.dumps(each) + "\n" for each in found)
    if form == "csv":
        head = ",".join(found[0])
        text = "\n".join([head, *(",".join(map(str, each.values())) for each in found)])
    elif form != "lines" and form != "gzip":
        value = {"data": found, "meta": {}} if form == "page" else found
        text = json.dumps(value, indent=2 if form == "indented" else None)
    file.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    assert bring(workspace, file, source="langfuse") == Imported(imported=2, passed=1)
    assert sorted(row["output"] for row in rows(workspace)) == ["answer 1", "answer 3"]


def test_a_batch_s_answers_find_their_requests(workspace: Any, tmp_path: Path) -> None:
    asked = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "gpt-4o", "messages": [{"role": "user", "content": name}]}}
        for name in ("a", "b", "c")
    ]  # fmt: skip
    done = [
        {"id": f"batch_{name}", "custom_id": name, "error": None, "response": {
            "status_code": status, "request_id": "r", "body": {
                "id": f"chatcmpl-{name}", "object": "chat.completion", "created": 1_760_000_000,
                "model": "gpt-4o", "choices": [{"index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": name.upper()}}]}}}
        for name, status in (("c", 200), ("a", 200), ("b", 500))
    ]  # fmt: skip
    requests = lines(tmp_path / "input.jsonl", *asked)
    file = lines(tmp_path / "output.jsonl", *done)
    with pytest.raises(TrafficError, match="1, 2"):
        bring(workspace, file, source="openai")
    said = bring(workspace, file, source="openai", requests=requests)
    assert said == Imported(imported=2, passed=1)
    found = {row["input"]["messages"][0]["content"]: row["output"] for row in rows(workspace)}
    assert found == {"a": "A", "c": "C"}


def test_what_was_erased_does_not_come_back(workspace: Any, tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", plain(1), plain(2))
    bring(workspace, file)
    gone = rows(workspace)[0]
    erasure.erase(workspace, "default", "tickets", gone["pair_id"])
    assert bring(workspace, file) == Imported(known=1, erased=1)
    assert len(rows(workspace)) == 1


def test_a_damaged_compressed_file_is_refused(workspace: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(plain(1)).encode() * 99)[:-20])
    with pytest.raises(TrafficError, match="damaged"):
        bring(workspace, file)
    assert workspace.lake.is_empty("default")


def test_the_command_reads_every_source_it_names(
    home: Any, run_apprentice: Callable[..., Any], tmp_path: Path
) -> None:
    file = lines(tmp_path / "a.jsonl", observation(1))
    arguments = ("import", str(file), "--namespace", "tickets", "--json")
    done = run_apprentice(home, *arguments, "--source", "langfuse")
    assert done.document["imported"] == 1
    for source in ("litellm", "helicone", "mlflow"):
        refused = run_apprentice(home, *arguments, "--source", source)
        assert (refused.status, refused.document["error"]) == (1, "TrafficError")
    wrong = run_apprentice(home, *arguments, "--source", "langfuse", "--requests", str(file))
    assert wrong.status == 2
