"""Exports in the styles of training tools: loaded by those tools, and nothing left out unsaid."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import ArrowInvalid

from apprentice_pipeline.errors import CannotOpen, UsageError
from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.stages import export, labelling
from apprentice_pipeline.store.rows import arrow_rows
from apprentice_pipeline.store.sealing import CAPTURES, plain_row, seal

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"place": "x"}'}}
BASE = Path(__file__).parents[2] / "apprentice_pipeline" / "demo" / "base"


@pytest.fixture
def mixed(workspace: Any, captured: Callable[..., Any]) -> Any:
    """Four texts, one of them rejected; one call of a tool; one image."""
    texts = captured(workspace, 4)
    labelling.record_feedback(workspace, "default", texts[1].pair_id, action="reject")
    asked = [{"role": "user", "content": "where?"}]
    given = {"messages": asked, "parameters": {"tools": [TOOL]}}
    called = {"content": [], "tool_calls": [CALL]}
    captured(workspace, 1, ago_us=2_000, input=given, output=called)
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    image = {"messages": [{"role": "user", "content": [part]}], "parameters": {}}
    captured(workspace, 1, ago_us=1_000, input=image)
    return workspace


def request(style: str, form: str = "jsonl") -> export.Request:
    return export.Request("default", "tickets", form, style=style)


@pytest.mark.parametrize(
    ("style", "form", "rows", "left_out"),
    [
        ("pairs", "jsonl", 6, {}),
        ("chat", "jsonl", 5, {"rejected by a person": 1}),
        ("trl", "jsonl", 4, {"rejected by a person": 1, "images": 1}),
        ("sharegpt", "jsonl", 4, {"rejected by a person": 1, "images": 1}),
        ("pairs", "parquet", 6, {}),
        ("trl", "parquet", 3,
         {"rejected by a person": 1, "images": 1, "tools in Parquet (ask for jsonl)": 1}),
        ("sharegpt", "parquet", 4, {"rejected by a person": 1, "images": 1}),
    ],
)  # fmt: skip
def test_every_row_is_written_or_counted_by_reason(
    mixed: Any, style: str, form: str, rows: int, left_out: dict[str, int]
) -> None:
    out = io.BytesIO()
    written = export.write(mixed, request(style, form), out)
    assert (written.rows, dict(written.left_out)) == (rows, left_out)
    out.seek(0)
    found = pq.read_table(out).num_rows if form == "parquet" else len(out.read().splitlines())
    assert found == rows


def test_both_forms_of_a_style_hold_the_same(mixed: Any) -> None:
    out = io.BytesIO()
    export.write(mixed, request("sharegpt", "parquet"), out)
    lines = list(export.rows(mixed, request("sharegpt")))
    assert pq.read_table(out).to_pylist() == [{"tools": None, **line} for line in lines]


def test_openai_takes_no_parquet_and_a_style_must_exist() -> None:
    with pytest.raises(UsageError, match="takes JSON lines"):
        export.check(request("chat", "parquet"))
    with pytest.raises(UsageError, match="no such style"):
        export.check(request("haiku"))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_trl_s_own_code_formats_what_datasets_loads(
    form: str, mixed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template, is_conversational

    file = tmp_path / f"corpus.{form}"
    export.write_file(mixed, request("trl", form), file)
    loader = "json" if form == "jsonl" else "parquet"
    loaded = load_dataset(
        loader, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert all(is_conversational(example) for example in loaded)
    example = {name: loaded[0][name] for name in ("prompt", "completion")}
    text = apply_chat_template(example, tokenizer)
    assert example["prompt"][-1]["content"] in text["prompt"]
    assert example["completion"][0]["content"] in text["completion"]
    if form == "jsonl":
        called = loaded[-1]
        assert json.loads(called["tools"]) == [TOOL]
        arguments = called["completion"][0]["tool_calls"][0]["function"]["arguments"]
        assert arguments == {"place": "x"}


def test_the_command_says_on_stderr_what_it_left_out(
    mixed: Any, home: Any, run_apprentice: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = ("labels", "--namespace", "tickets", "--style", "trl")
    printed = run_apprentice(home, *arguments)
    assert len(printed.out.splitlines()) == 4
    assert "left out 2 rows" in printed.err
    assert "1 images" in printed.err
    out = tmp_path / "a.jsonl"
    done = run_apprentice(home, *arguments, "--out", str(out), "--json")
    assert done.document["rows"] == 4
    assert done.document["left_out"] == {"rejected by a person": 1, "images": 1}
    wrong = run_apprentice(
        home, "labels", "--namespace", "tickets", "--style", "chat", "--format", "parquet",
        "--out", str(out),
    )  # fmt: skip
    assert wrong.status == 2


def test_a_parquet_export_that_fails_midway_is_no_parquet_file(
    workspace: Any, captured: Callable[..., Any], tmp_path: Path
) -> None:
    """What reached a reader until then must not pass for the whole corpus."""
    last = captured(workspace, export.PARQUET_ROWS + 1)[-1]
    late = last._replace(pair_id=new_pair_id(now_us()), created_at_us=now_us())
    damaged = seal(workspace.vault, plain_row(late, "default"))._replace(first=bytes(64))
    workspace.lake.append("default", CAPTURES, arrow_rows(CAPTURES, [damaged]))
    out = io.BytesIO()
    with pytest.raises(CannotOpen):
        export.write(workspace, request("pairs", "parquet"), out)
    assert out.getvalue().startswith(b"PAR1")
    with pytest.raises(ArrowInvalid):
        pq.read_table(io.BytesIO(out.getvalue()))
