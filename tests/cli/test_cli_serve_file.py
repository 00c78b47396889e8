"""`apprentice serve FILE.kolm`: one verified artifact, alone, behind both providers' shapes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest


def artifact_of(home: Any) -> Path:
    return next((home.root / "artifacts").rglob("*.kolm"))


@pytest.fixture(scope="module")
def served(distilled: Any) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "apprentice_pipeline.cli", "serve"),
            *(str(artifact_of(distilled)), "--port", str(port)),
        ],
        env={**os.environ, **distilled.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{url}/healthz", timeout=2)
            break
        except httpx.HTTPError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.3)
    yield url
    process.terminate()
    assert process.wait(20) is not None


def test_both_sdks_get_the_same_answer_streamed_or_not(served: str) -> None:
    asked: list[Any] = [{"role": "user", "content": "where is my refund"}]
    with openai.OpenAI(base_url=f"{served}/v1", api_key="any") as client:
        whole = client.chat.completions.create(model="m", messages=asked, max_tokens=24)
        with client.chat.completions.create(
            model="m", messages=asked, max_tokens=24, stream=True
        ) as events:
            streamed = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    with anthropic.Anthropic(base_url=served, api_key="any") as other:
        message = other.messages.create(model="m", messages=asked, max_tokens=24)
    assert whole.choices[0].message.content == streamed == message.content[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0


def test_a_web_page_a_foreign_host_and_a_broken_body_are_refused(served: str) -> None:
    page = httpx.post(f"{served}/v1/messages", json={}, headers={"origin": "http://page.test"})
    assert (page.status_code, page.json()["type"]) == (403, "error")
    assert httpx.get(f"{served}/healthz", headers={"host": "page.test"}).status_code == 400
    broken = httpx.post(f"{served}/v1/chat/completions", content=b"{")
    assert broken.status_code == 400
    assert "message" in broken.json()["error"]


def test_a_changed_file_is_not_served(distilled: Any, run_apprentice: Any, tmp_path: Path) -> None:
    data = bytearray(artifact_of(distilled).read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "changed.kolm"
    changed.write_bytes(data)
    outcome = run_apprentice(distilled, "serve", str(changed))
    assert outcome.status == 1
    assert "→" in outcome.err
