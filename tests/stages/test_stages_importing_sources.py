"""Every source's file: imported twice is imported once, and malformed lines are told by number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import TrafficError
from apprentice_pipeline.stages import export, importing
from apprentice_pipeline.stages.importing import Imported

CANARY = "zanzibar-canary-9921"
AT = 1_760_000_000
RFC = "2025-10-09T08:53:{:02d}Z"
Make = Callable[[int], dict[str, Any]]


def asked(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"question {number}"}]


def completion(number: int) -> dict[str, Any]:
    said = {"role": "assistant", "content": f"answer {number}"}
    return {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": AT + number,
            "model": "gpt-4o", "usage": {"prompt_tokens": 9, "completion_tokens": 2},
            "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}  # fmt: skip


def litellm(number: int) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "call_type": "acompletion", "status": "success",
            "startTime": AT + number, "endTime": AT + number + 1.5, "model": "gpt-4o",
            "messages": asked(number), "response": completion(number),
            "response_cost": 0.001}  # fmt: skip


def langfuse(number: int) -> dict[str, Any]:
    return {"id": f"o{number}", "type": "GENERATION", "startTime": RFC.format(number),
            "model": "gpt-4o", "input": asked(number), "output": f"answer {number}"}  # fmt: skip


def helicone(number: int) -> dict[str, Any]:
    return {"request_id": f"r{number}", "request_created_at": RFC.format(number),
            "request_body": {"model": "gpt-4o", "messages": asked(number)},
            "request_path": "https://api.openai.com/v1/chat/completions",
            "response_body": completion(number), "response_status": 200,
            "provider": "OPENAI"}  # fmt: skip


def mlflow(number: int) -> dict[str, Any]:
    attributes = {"mlflow.spanType": "CHAT_MODEL", "mlflow.spanOutputs": completion(number),
                  "mlflow.spanInputs": {"model": "gpt-4o", "messages": asked(number)}}  # fmt: skip
    texts = {name: json.dumps(value) for name, value in attributes.items()}
    start = (AT + number) * 10**9
    span = {"span_id": "s1", "start_time_unix_nano": start, "attributes": texts}
    return {"info": {"trace_id": f"tr-{number}"}, "data": {"spans": [span]}}


def bodies(number: int) -> dict[str, Any]:
    request = {"model": "gpt-4o", "messages": asked(number)}
    return {"request": request, "response": completion(number)}


def without_id(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "completion": f"answer {number}"}


SOURCES = [
    ("litellm", litellm),
    ("langfuse", langfuse),
    ("helicone", helicone),
    ("mlflow", mlflow),
    ("openai", bodies),
    ("jsonl", without_id),
]
every_source = pytest.mark.parametrize(("source", "make"), SOURCES, ids=[s for s, _ in SOURCES])


def lines(file: Path, *records: Any) -> Path:
    texts = (record if isinstance(record, str) else json.dumps(record) for record in records)
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return file


def bring(workspace: Any, file: Path, source: str, *, skip_bad: bool = False) -> Imported:
    request = importing.Request(file, "default", "tickets", source, skip_bad)
    return importing.import_file(workspace, request)


def answers(workspace: Any) -> list[str]:
    found = export.rows(workspace, export.Request("default", "tickets"))
    return sorted(row["output"] for row in found)


@every_source
def test_imported_again_under_another_name_in_another_order_adds_nothing(
    source: str, make: Make, workspace: Any, tmp_path: Path
) -> None:
    records = [make(number) for number in range(6)]
    first = lines(tmp_path / "first.jsonl", *records)
    assert bring(workspace, first, source) == Imported(imported=6)
    assert bring(workspace, first, source) == Imported(known=6)
    other = lines(tmp_path / "other name.ndjson", *reversed(records))
    assert bring(workspace, other, source) == Imported(known=6)
    longer = lines(tmp_path / "longer.jsonl", make(7), *records[3:], *records[:3])
    assert bring(workspace, longer, source) == Imported(imported=1, known=6)
    assert answers(workspace) == [f"answer {number}" for number in (0, 1, 2, 3, 4, 5, 7)]


@every_source
def test_malformed_lines_are_told_by_number_and_skipped_only_when_asked(
    source: str, make: Make, workspace: Any, tmp_path: Path
) -> None:
    stranger = {"colour": CANARY}
    file = lines(tmp_path / "a.jsonl", make(1), f'{{"{CANARY}', stranger, make(2), "7")
    with pytest.raises(TrafficError) as refused:
        bring(workspace, file, source)
    said = f"{refused.value} {refused.value.remedy}"
    assert "a.jsonl: 3 malformed lines: 2, 3, 5" in said
    assert CANARY not in said
    assert workspace.lake.is_empty("default")
    assert bring(workspace, file, source, skip_bad=True) == Imported(imported=2, skipped=3)
    assert bring(workspace, file, source, skip_bad=True) == Imported(known=2, skipped=3)
    assert answers(workspace) == ["answer 1", "answer 2"]
