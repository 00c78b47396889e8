"""`instructor`, straight and through the gateway: structured output, and a second try for it.

It needs other versions of `openai` and `jiter` than the suite; `make instructor` gives it an
environment of its own, `tests/conformance/instructor/.venv`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Both, Row, Side

FOLDER = Path(__file__).parent / "instructor"
PYTHON = FOLDER / ".venv" / "bin" / "python"
WRONG, RIGHT = {"category": "billing", "priority": 7}, {"category": "billing", "priority": 2}
TOOLS = ("chat_tools", "message_tools", "message_async", "chat_partial")
TEXTS = ("chat_json", "chat_schema", "message_json")
FAULT = "a priority is 1, 2 or 3"


def instructor(*cases: str) -> Callable[[Side], Any]:
    """What these cases of `calls.py` got, in one process."""
    assert PYTHON.exists(), "run `make instructor`"

    def call(side: Side) -> Any:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            [PYTHON, "calls.py", ",".join(cases), side.openai, side.anthropic],
            cwd=FOLDER,
            env=kept,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return call


def answer(row: Row) -> Any:
    """What was answered, by text or by a tool call."""
    if isinstance(row.output, str):
        return json.loads(row.output)
    return json.loads(row.output["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize("cases", [TOOLS, TEXTS], ids=["tools", "texts"])
def test_a_second_try_after_an_answer_that_does_not_fit(both: Both, cases: tuple[str, ...]) -> None:
    """The first answer breaks the model's rule; the second request tells the teacher so."""
    table = {f"file it: {case}": WRONG for case in cases}
    again = json.dumps(RIGHT)
    run = both(
        instructor(*cases), {**table, "else": RIGHT}, uncertain_share=1.0, fallback_text=again
    )
    assert run.value == [RIGHT] * len(cases)
    assert [answer(row) for row in run.rows] == [WRONG, RIGHT] * len(cases)
    assert all(row.is_pair for row in run.rows)
    streamed = [case == "chat_partial" for case in cases for _ in range(2)]
    assert [row.streamed for row in run.rows] == streamed
    for case, first, second in zip(cases, run.rows[::2], run.rows[1::2], strict=True):
        asked = json.dumps(first.input["messages"])
        assert f"file it: {case}" in asked
        assert FAULT not in asked
        assert second.input["messages"][: len(first.input["messages"])] == first.input["messages"]
        assert FAULT in json.dumps(second.input["messages"])
