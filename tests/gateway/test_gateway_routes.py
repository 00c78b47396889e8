"""The control plane's routes, over HTTP."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import orjson
import pytest

from apprentice_pipeline.gateway import exports
from apprentice_pipeline.stages import export
from apprentice_pipeline.store.workspace import Workspace

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
EXPORT = "/v1/labels/synthesize-corpus?namespace=default"


@pytest.fixture
def pairs(gateway: Any, ask: Any) -> list[str]:
    """The ids of three captured pairs."""
    ids = [ask(gateway.capture(), CHAT, ASK).header("x-apprentice-pair-id") for _ in range(3)]
    gateway.captured()
    return ids


def test_the_corpus_is_exported_as_json_lines(gateway: Any, ask: Any, pairs: list[str]) -> None:
    answer = ask(gateway.url, EXPORT)
    assert answer.status == 200
    assert answer.header("content-type") == "application/x-ndjson"
    rows = [orjson.loads(line) for line in answer.body.splitlines()]
    assert [row["pair_id"] for row in rows] == pairs
    assert rows[0]["input"]["messages"] == ASK["messages"]
    assert rows[0]["output"] == "pong"
    assert rows[0]["verdict"] == "unverified"


def test_the_corpus_is_exported_as_parquet(gateway: Any, ask: Any, pairs: list[str]) -> None:
    import pyarrow.parquet as pq

    answer = ask(gateway.url, EXPORT + "&format=parquet")
    table = pq.read_table(io.BytesIO(answer.body))
    assert table.column("pair_id").to_pylist() == pairs


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_reader_that_leaves_an_export_holds_nobody_up(
    workspace: Workspace, captured: Callable[..., list[Any]], form: str
) -> None:
    """What is left to close is closed off the event loop, and the writer ends."""
    captured(workspace, 3_000)
    closed_by = []

    def watch(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code is exports._Pipe.abandon.__code__:
            closed_by.append(threading.current_thread())

    async def leave() -> float:
        made = exports.pieces(workspace, export.Request("default", "tickets", form))
        assert await anext(made)
        started = time.monotonic()
        await made.aclose()
        return time.monotonic() - started

    before = set(threading.enumerate())
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        assert asyncio.run(leave()) < 0.1
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    deadline = time.monotonic() + 10
    while left := [
        each
        for each in set(threading.enumerate()) - before
        if each.name.startswith("export") and each.is_alive()
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    assert threading.main_thread() not in closed_by
    assert len(closed_by) == (1 if form == "parquet" else 0)


def test_an_export_can_be_limited(gateway: Any, ask: Any, pairs: list[str]) -> None:
    assert len(ask(gateway.url, EXPORT + "&limit=2").body.splitlines()) == 2
    assert ask(gateway.url, EXPORT + "&until=2001-01-01").body == b""
    assert ask(gateway.url, EXPORT + "&min_confidence=0.5").body == b""


@pytest.mark.parametrize(
    "query", ["", "?namespace=A!", "?namespace=a&format=csv", "?namespace=a&since=yesterday",
              "?namespace=a&limit=0", "?namespace=a&min_confidence=2"],
)  # fmt: skip
def test_a_wrong_export_query_is_a_400_with_the_cause(gateway: Any, ask: Any, query: str) -> None:
    answer = ask(gateway.url, "/v1/labels/synthesize-corpus" + query)
    assert answer.status == 400
    assert answer.json()["error"]["message"]


def test_distilling_below_the_threshold_is_409_with_the_counts(
    gateway: Any, ask: Any, pairs: list[str]
) -> None:
    answer = ask(gateway.url, "/v1/specialists/auto-distill", {"namespace": "default"})
    assert answer.status == 409
    document = answer.json()
    assert document["pairs"] == 3
    assert document["ready_to_distill_at"] == 1000
    assert "train pairs" in document["error"]["message"]


@pytest.mark.parametrize("base", ["/etc/passwd", "../x", "--help", "a b", 7])
def test_a_base_model_from_outside_is_a_name_never_a_path(
    gateway: Any, ask: Any, base: Any
) -> None:
    asked = {"namespace": "default", "base_model": base}
    assert ask(gateway.url, "/v1/specialists/auto-distill", asked).status == 400


def test_jobs_are_known_to_their_tenant_only(gateway: Any, ask: Any) -> None:
    state = gateway.workspace.state
    mine = state.create_job(tenant="default", namespace="a", kind="distill", request={}, now_us=1)
    other = state.create_job(tenant="other", namespace="a", kind="distill", request={}, now_us=1)
    assert ask(gateway.url, f"/v1/specialists/{other.id}").status == 404
    found = ask(gateway.url, f"/v1/specialists/{mine.id}").json()
    assert (found["job_id"], found["namespace"]) == (mine.id, "a")
    assert found["state"] == "failed", "a job whose runner is gone does not look alive"
    assert ask(gateway.url, f"/v1/specialists/{mine.id}/artifact").status == 404


def test_a_finished_jobs_artifact_is_downloaded(gateway: Any, ask: Any) -> None:
    state, file = gateway.workspace.state, gateway.workspace.home.artifacts / "a.kolm"
    file.write_bytes(b"PK...")
    job = state.create_job(tenant="default", namespace="a", kind="distill", request={}, now_us=1)
    state.update_job(job.id, state="done", result={"artifact": str(file)}, now_us=2)
    assert ask(gateway.url, f"/v1/specialists/{job.id}/artifact").body == b"PK..."


@pytest.mark.parametrize("body", [b"", b"not a zip", b"PK\x03\x04"])
def test_what_is_no_artifact_does_not_verify(gateway: Any, ask: Any, body: bytes) -> None:
    answer = ask(gateway.url, "/v1/artifacts/verify", body, method="POST")
    assert answer.status == 422
    assert answer.json()["verified"] is False
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("feedback", "verdict"),
    [
        ({"action": "approve"}, "approved"),
        ({"action": "reject"}, "rejected"),
        ({"action": "edit", "edit": "better"}, "approved"),
    ],
)
def test_feedback_is_the_newest_verdict(
    gateway: Any, ask: Any, pairs: list[str], feedback: dict[str, Any], verdict: str
) -> None:
    answer = ask(gateway.url, "/v1/feedback", {"pair_id": pairs[0], **feedback})
    assert answer.status == 200
    gateway.captured()
    rows = [orjson.loads(line) for line in ask(gateway.url, EXPORT).body.splitlines()]
    assert rows[0]["verdict"] == verdict
    assert rows[0]["output"] == feedback.get("edit", "pong")


def test_feedback_on_an_unknown_pair_is_404(gateway: Any, ask: Any) -> None:
    assert ask(gateway.url, "/v1/feedback", {"pair_id": "x", "action": "approve"}).status == 404
    assert ask(gateway.url, "/v1/feedback", {"pair_id": "x", "action": "like"}).status == 400
    assert ask(gateway.url, "/v1/feedback", b"[]").status == 400


def test_status_and_report_tell_of_the_streams(gateway: Any, ask: Any, pairs: list[str]) -> None:
    for path in ("/v1/status", "/v1/report", "/v1/status?task=default"):
        answer = ask(gateway.url, path)
        assert answer.status == 200
        assert b'"default"' in answer.body
    assert b"default" in ask(gateway.url, "/v1/report?format=text").body
    html = ask(gateway.url, "/v1/report?format=html")
    assert (html.header("content-type") or "").startswith("text/html")
    assert ask(gateway.url, "/v1/report?format=pdf").status == 400


def test_metrics_count_what_happened_and_name_no_tenant(
    gateway: Any, ask: Any, pairs: list[str]
) -> None:
    text = ask(gateway.url, "/metrics").body.decode()
    assert 'apprentice_events_total{event="pairs"} 3.0' in text
    assert (
        'apprentice_responses_total{provider="openai",served_by="remote",status="2xx"} 3.0' in text
    )
    assert "tenant" not in text


def test_metrics_name_tenants_to_an_operator(gateway: Any, ask: Any, pairs: list[str]) -> None:
    state = gateway.workspace.state
    operator = state.create_key(tenant="ops", namespace=None, role="operator", now_us=1).key
    tenant = state.create_key(tenant="acme", namespace=None, role="tenant", now_us=1).key
    named = ask(gateway.url, "/metrics", None, {"x-apprentice-key": operator}).body
    assert b'apprentice_tenant_events_total{event="pairs",namespace="default"' in named
    assert b"tenant" not in ask(gateway.url, "/metrics", None, {"x-apprentice-key": tenant}).body


def test_tasks_that_are_not_declared_are_404(gateway: Any, ask: Any) -> None:
    assert ask(gateway.url, "/v1/tasks/unknown", {"input": {}}).status == 404
    assert ask(gateway.url, "/v1/tasks/unknown", {"text": "x"}).status == 400


def test_what_is_not_there_says_so_in_json(gateway: Any, ask: Any) -> None:
    assert ask(gateway.url, "/v2").json()["error"]["message"]
    assert ask(gateway.url, "/v1/feedback").status == 405


def test_readiness_tells_of_the_state_database(gateway: Any, ask: Any) -> None:
    assert ask(gateway.url, "/readyz").json()["status"] == "ready"
    assert ask(gateway.url, "/healthz").json() == {"status": "ok"}
