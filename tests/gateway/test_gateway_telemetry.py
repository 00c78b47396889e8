"""Watching the gateway: spans to a collector, lines to standard error, and never any content."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CHAT = "/v1/chat/completions"
SECRET = "zebra-in-the-attic"
ASK = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": SECRET}],
    "max_completion_tokens": 7,
}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {
    "authorization": "Bearer sk-provider-secret",
    "traceparent": f"00-{TRACE}-{PARENT}-01",
    "tracestate": "vendor=1",
}


class Collector:
    """An OTLP collector over HTTP: keeps the spans it was sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                collector.keep(self.path, body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def keep(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        self.bodies.append(body)
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for group in request.resource_spans:
            self.resources.append(group.resource)
            for scope in group.scope_spans:
                self.spans += scope.spans

    def waits_for(self, count: int) -> list[Any]:
        """The spans, once there are so many."""
        end = time.monotonic() + 60
        while len(self.spans) < count:
            assert time.monotonic() < end, f"{len(self.spans)} spans came"
            time.sleep(0.05)
        return self.spans


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def told(span: Any) -> dict[str, Any]:
    """A span's attributes as plain values."""
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


@pytest.fixture
def traced(start: Callable[..., Any], collector: Collector) -> Any:
    return start(gateway={"telemetry": {"otlp_endpoint": collector.url}})


def test_a_call_becomes_a_span_by_the_conventions_in_the_clients_trace(
    traced: Any, collector: Collector, ask: Any, provider: Any
) -> None:
    answer = ask(traced.capture(), CHAT, ASK, HEADERS)
    (span,) = collector.waits_for(1)
    assert span.name == "chat gpt-4o"
    assert span.kind == span.SPAN_KIND_CLIENT
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert abs(span.start_time_unix_nano / 1e9 - time.time()) < 600
    facts = told(span)
    assert facts.pop("gen_ai.response.time_to_first_chunk") > 0
    assert facts == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "gpt-4o",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "http.response.status_code": 200,
        "apprentice.tenant": "default",
        "apprentice.namespace": "default",
        "apprentice.pair_id": answer.header("x-apprentice-pair-id"),
        "apprentice.served_by": "remote",
        "apprentice.usage_source": "provider",
    }
    assert collector.paths == {"/v1/traces"}
    forwarded = dict(provider.seen[-1].headers)
    assert {name: forwarded[name] for name in HEADERS} == HEADERS
    resource = {each.key: each.value.string_value for each in collector.resources[0].attributes}
    assert resource["service.name"] == "apprentice-gateway"


@pytest.mark.parametrize(
    ("behave", "error", "status"),
    [("error", "429", 429), ("cut-stream", "incomplete", 200), ("stream", None, 200)],
)
def test_a_span_says_how_a_call_failed(
    traced: Any, collector: Collector, ask: Any, behave: str, error: str | None, status: int
) -> None:
    with contextlib.suppress(http.client.HTTPException):
        ask(traced.capture(), CHAT, {**ASK, "stream": True}, {"x-behave": behave})
    (span,) = collector.waits_for(1)
    assert told(span).get("error.type") == error
    assert told(span)["http.response.status_code"] == status
    assert told(span)["gen_ai.request.stream"] is True
    assert (span.status.code == span.status.STATUS_CODE_ERROR) == (error is not None)


def test_no_span_holds_content_or_a_key(traced: Any, collector: Collector, ask: Any) -> None:
    key = traced.workspace.state.create_key(
        tenant="default", namespace=None, role="tenant", now_us=1
    ).key
    ask(traced.capture(), CHAT + "?api-version=hidden", ASK, {**HEADERS, "x-apprentice-key": key})
    ask(traced.capture(), "/v1/models", None, {**HEADERS, "x-apprentice-key": key})
    collector.waits_for(1)
    sent = b"".join(collector.bodies)
    for secret in (SECRET, "pong", key, "sk-provider-secret", "hidden", "vendor=1"):
        assert secret.encode() not in sent
    assert len(collector.spans) == 1, "only captured calls are spans"


def test_a_collector_that_is_gone_costs_the_calls_nothing(
    start: Callable[..., Any], ask: Any
) -> None:
    gateway = start(gateway={"telemetry": {"otlp_endpoint": "http://127.0.0.1:9", "queue_size": 4}})
    for _ in range(20):
        assert ask(gateway.capture(), CHAT, ASK).status == 200
    assert len(gateway.captured()) == 20


def test_a_trace_the_client_does_not_sample_is_not_exported(
    traced: Any, collector: Collector, ask: Any
) -> None:
    ask(traced.capture(), CHAT, ASK, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    ask(traced.capture(), CHAT, ASK, {"traceparent": "nonsense"})
    (span,) = collector.waits_for(1)
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""


class Lines:
    """What a gateway writes on a descriptor that stands for standard error."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def waits_for(self, count: int) -> list[str]:
        end = time.monotonic() + 60
        while len(found := self.file.read_text().splitlines()) < count:
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def standard_error(folder: Path) -> Iterator[Lines]:
    """The process's standard error, in a file."""
    file, kept = folder / "stderr", os.dup(2)
    with file.open("wb") as target:
        os.dup2(target.fileno(), 2)
    try:
        yield Lines(file)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_the_access_log_says_who_what_and_how_long_and_nothing_else(
    start: Callable[..., Any], tmp_path: Path, ask: Any
) -> None:
    with standard_error(tmp_path) as stderr:
        gateway = start(gateway={"access_log": "json"})
        answer = ask(gateway.capture(), CHAT + "?api-version=hidden", ASK, HEADERS)
        ask(gateway.url, "/v1/status?task=default")
        ask(gateway.url, "/nowhere/at/all")
        ask(gateway.capture("anthropic"), "/v1/messages/batches", {"x": 1})
        lines = [orjson.loads(line) for line in stderr.waits_for(4)]
    first = lines[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", first.pop("time"))
    assert first.pop("latency_ms") > 0
    assert first == {
        "tenant": "default",
        "namespace": "default",
        "provider": "openai",
        "endpoint": "chat.completions",
        "status": 200,
        "whole": True,
        "bytes_in": len(orjson.dumps(ASK)),
        "bytes_out": len(answer.body),
        "served_by": "remote",
        "pair_id": answer.header("x-apprentice-pair-id"),
    }
    assert (lines[1]["endpoint"], lines[1]["tenant"]) == ("status", "default")
    assert (lines[2]["endpoint"], lines[2]["status"]) == ("-", 404)
    assert (lines[3]["provider"], lines[3]["pair_id"]) == ("anthropic", "-")
    text = stderr.file.read_text()
    for secret in (SECRET, "pong", "sk-provider-secret", "hidden", "nowhere", "batches", "vendor"):
        assert secret not in text


def test_the_access_log_is_also_written_as_text(
    start: Callable[..., Any], tmp_path: Path, ask: Any
) -> None:
    with standard_error(tmp_path) as stderr:
        gateway = start(gateway={"access_log": "text"})
        ask(gateway.capture(), CHAT, ASK, {"x-behave": "error"})
        (line,) = stderr.waits_for(1)
    assert " tenant=default namespace=default provider=openai endpoint=chat.completions" in line
    assert " status=429 whole=true " in line


def test_the_gateway_is_silent_by_default(
    start: Callable[..., Any], tmp_path: Path, ask: Any
) -> None:
    with standard_error(tmp_path) as stderr:
        gateway = start()
        ask(gateway.capture(), CHAT, ASK)
    assert gateway.app._observer is None
    assert stderr.file.read_text() == ""


def test_a_reader_that_went_away_costs_the_calls_nothing(
    start: Callable[..., Any], ask: Any
) -> None:
    reading, writing = os.pipe()
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        gateway = start(gateway={"access_log": "json"})
        os.close(reading)
        for _ in range(3):
            assert ask(gateway.capture(), CHAT, ASK).status == 200
            time.sleep(0.3)
        assert len(gateway.captured()) == 3
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writing)
