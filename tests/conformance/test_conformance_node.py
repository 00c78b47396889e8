"""The official Node SDKs, `openai` and `@anthropic-ai/sdk`, straight and through the gateway.

`make node` puts them into `tests/conformance/node/node_modules` and Node where it may.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Both, Side

FOLDER = Path(__file__).parent / "node"
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
CALLS = [
    {"name": "weather", "arguments": {"city": "Zürich"}},
    {"name": "time", "arguments": {"city": "Lima"}},
]
CALLING: Any = {"$reply": {"text": "Looking.", "thinking": "Two of them.", "calls": CALLS}}


def node(*cases: str) -> Callable[[Side], Any]:
    """What these cases of `calls.mjs` got, in one process."""
    there = shutil.which("node") and (FOLDER / "node_modules").is_dir()
    assert there, "the Node SDKs are missing: `make node` installs them, or says what to install"

    def call(side: Side) -> Any:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        given = {"apiKey": side.key, "defaultHeaders": side.headers}
        done = subprocess.run(
            ["node", "calls.mjs", ",".join(cases), side.openai, side.anthropic],
            cwd=FOLDER,
            env={**kept, "GIVEN": json.dumps(given)},
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return call


def test_answers_whole_and_streamed(both: Both) -> None:
    cases = ("chat", "response", "message", "chat_stream", "response_stream", "message_stream")
    run = both(node(*cases), {"ping": LONG})
    assert [(row.is_pair, row.output) for row in run.rows] == [(True, LONG)] * 6
    assert [row.streamed for row in run.rows] == [False] * 3 + [True] * 3
    inputs = [row.input["messages"] for row in run.rows]
    assert inputs == [[{"role": "user", "content": "ping"}]] * 6


def test_parallel_tools_and_thoughts(both: Both) -> None:
    run = both(node("chat_tools", "message_tools"), {"ping": CALLING})
    for row, kinds in zip(run.rows, (["text"], ["thinking", "text"]), strict=True):
        made = [call["function"] for call in row.output["tool_calls"]]
        assert [(call["name"], json.loads(call["arguments"])) for call in made] == [
            (call["name"], call["arguments"]) for call in CALLS
        ]
        assert [block["type"] for block in row.output["content"]] == kinds


def test_an_error_is_an_exchange_and_no_pair(both: Both) -> None:
    run = both(node("chat_error", "message_error"), rate_limit=0)
    assert [got["kind"] for got in run.value] == ["RateLimitError"] * 2
    assert [(row.is_pair, row.status) for row in run.rows] == [(False, 429)] * 2


def test_what_is_not_captured_passes_all_the_same(both: Both) -> None:
    assert both(node("openai_files", "message_aside")).rows == []


LEAVING = ("chat_leave", "response_leave", "message_leave", "message_signal")


@pytest.mark.parametrize("case", LEAVING)
def test_a_client_that_leaves_mid_stream_ends_the_upstream_call(both: Both, case: str) -> None:
    run = both(node(case), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)
