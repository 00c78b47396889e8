"""`apprentice serve FILE.kolm`: one verified artifact, alone, behind both providers' shapes."""

from __future__ import annotations

import os
import shutil
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

from apprentice_pipeline.artifact.kolm import trusted_key, verify_kolm
from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.errors import ArtifactError, BaseModelMissing
from apprentice_pipeline.gateway.single import find_base


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


def test_an_answer_that_the_limit_cut_says_so(served: str) -> None:
    asked: list[Any] = [{"role": "user", "content": "where is my refund"}]
    with openai.OpenAI(base_url=f"{served}/v1", api_key="any") as client:
        cut = client.chat.completions.create(model="m", messages=asked, max_tokens=2)
        with client.chat.completions.create(
            model="m", messages=asked, max_tokens=2, stream=True
        ) as events:
            reasons = [e.choices[0].finish_reason for e in events if e.choices]
    with anthropic.Anthropic(base_url=served, api_key="any") as other:
        message = other.messages.create(model="m", messages=asked, max_tokens=2)
        with other.messages.stream(model="m", messages=asked, max_tokens=2) as stream:
            streamed = stream.get_final_message()
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2
    assert cut.choices[0].finish_reason == "length"
    assert [reason for reason in reasons if reason] == ["length"]
    assert (message.stop_reason, streamed.stop_reason) == ("max_tokens", "max_tokens")


def test_the_responses_api_is_answered_whole_cut_and_streamed(served: str) -> None:
    question = "where is my refund"
    with openai.OpenAI(base_url=f"{served}/v1", api_key="any") as client:
        whole = client.responses.create(model="m", input=question)
        cut = client.responses.create(model="m", input=question, max_output_tokens=2)
        with client.responses.stream(model="m", input=question, max_output_tokens=2) as events:
            streamed = list(events)
        chat = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": question}]
        )
    assert whole.output_text == chat.choices[0].message.content
    last: Any = streamed[-1]
    assert last.type == "response.incomplete"
    for response in (cut, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details
        assert response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output_text == cut.output_text


TOOL = {"name": "look_up", "description": "x", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("path", "parameters", "named"),
    [
        ("chat/completions", {"n": 3}, "support n"),
        ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
        (
            "chat/completions",
            {"tools": [{"type": "function", "function": {"name": "look_up"}}]},
            "support tools",
        ),
        ("chat/completions", {"logprobs": True}, "logprobs"),
        ("chat/completions", {"stop": ["x"]}, "support stop"),
        ("responses", {"input": "x", "tools": [{"type": "web_search"}]}, "support tools"),
        (
            "responses",
            {"input": "x", "text": {"format": {"type": "json_object"}}},
            "response_format",
        ),
        ("responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("messages", {"tools": [TOOL]}, "support tools"),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ("messages", {"stop_sequences": ["x"]}, "stop_sequences"),
    ],
)
def test_what_it_cannot_do_is_refused_in_the_providers_shape(
    served: str, path: str, parameters: dict[str, Any], named: str
) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
    body = {"model": "m", **({} if path == "responses" else asked), **parameters}
    refused = httpx.post(f"{served}/v1/{path}", json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


def test_a_conversation_longer_than_the_context_is_refused(served: str) -> None:
    messages = [{"role": "user", "content": "where is my refund? " * 5_000}]
    body = {"model": "m", "messages": messages}
    refused = httpx.post(f"{served}/v1/chat/completions", json=body, timeout=60)
    assert refused.status_code == 400
    assert "context holds" in refused.json()["error"]["message"]


def test_the_base_is_the_manifests_whatever_else_is_configured(
    distilled: Any, tmp_path: Path
) -> None:
    """Another base by configuration gives way; another base by `--base` is refused."""
    key = trusted_key(distilled.root / "keys")
    verified = verify_kolm(artifact_of(distilled), public_key=key)
    embedded = resolve_base("embedded")
    other = tmp_path / "other"
    shutil.copytree(embedded.path, other)
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    for configured in ("embedded", str(other), "no-such-base"):
        assert find_base(verified, None, configured) == embedded
    with pytest.raises(ArtifactError, match="grown from embedded") as refused:
        find_base(verified, str(other), "embedded")
    assert "--base DIR" in refused.value.remedy
    with pytest.raises(BaseModelMissing):
        find_base(verified, str(tmp_path / "absent"), "embedded")


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
