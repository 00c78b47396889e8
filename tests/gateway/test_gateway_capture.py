"""Every call leaves one exchange; complete answers of the provider leave pairs."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import time
from typing import Any

import orjson
import pytest

from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}], "temperature": 0}


def request_bytes(behaviour: str) -> bytes:
    body = orjson.dumps({**ASK, "stream": True})
    head = (
        f"POST /v1/capture/openai{CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-behave: {behaviour}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(gateway: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.server.port), timeout=10)


@pytest.mark.parametrize("behaviour", ["json", "gzip", "chunked", "stream", "gzip-stream"])
def test_a_call_leaves_one_pair_with_its_content_sealed(
    gateway: Any, ask: Any, behaviour: str
) -> None:
    streamed = behaviour.endswith("stream")
    body = {**ASK, "stream": True} if streamed else ASK
    headers = {"x-behave": behaviour, "x-apprentice-namespace": "tickets"}
    answer = ask(gateway.capture(), CHAT, body, headers)
    (row,) = gateway.captured()
    assert row["pair_id"] == answer.header("x-apprentice-pair-id")
    assert (row["tenant"], row["namespace"]) == ("default", "tickets")
    assert row["is_pair"]
    assert row["complete"]
    assert (row["provider"], row["endpoint"]) == ("openai", "chat.completions")
    assert (row["streamed"], row["served_by"]) == (streamed, "remote")
    assert gateway.opened(row, "input") == {
        "messages": ASK["messages"],
        "parameters": {"temperature": 0},
    }
    assert gateway.opened(row, "output") == "pong"
    assert b"ping" not in row["input"]
    assert row["latency_us"] > 0
    assert row["first_byte_us"] <= row["latency_us"]


def test_usage_and_cost_are_kept_and_metered(gateway: Any, ask: Any) -> None:
    ask(gateway.capture(), CHAT, ASK)
    (row,) = gateway.captured()
    assert (row["input_tokens"], row["output_tokens"]) == (10, 2)
    assert row["usage_source"] == "provider"
    assert row["cost_usd"] > 0
    assert gateway.counted("cost_usd") == pytest.approx(row["cost_usd"])
    spent, calls = gateway.workspace.state.lifetime_spending("default", "default")["passthrough"]
    assert float(spent) == pytest.approx(row["cost_usd"])
    assert calls == 1


def test_usage_that_a_stream_does_not_carry_is_estimated_and_marked(gateway: Any, ask: Any) -> None:
    ask(gateway.capture(), CHAT, {**ASK, "stream": True}, {"x-behave": "stream"})
    (row,) = gateway.captured()
    assert row["usage_source"] == "estimated"
    assert row["output_tokens"] == 1


def test_usage_is_asked_for_only_where_the_configuration_says_so(
    start: Any, provider: Any, ask: Any
) -> None:
    gateway = start(capture={"inject_usage": True})
    ask(gateway.capture(), CHAT, {**ASK, "stream": True}, {"x-behave": "stream"})
    sent = orjson.loads(provider.seen[0].body)
    assert sent["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("behaviour", ["error", "redirect", "not-json"])
def test_what_is_no_answer_is_an_exchange_but_never_a_pair(
    gateway: Any, ask: Any, behaviour: str
) -> None:
    answer = ask(gateway.capture(), CHAT, ASK, {"x-behave": behaviour})
    (row,) = gateway.captured()
    assert row["status"] == answer.status
    assert not row["is_pair"]
    assert row["output"] is None


def test_other_paths_leave_nothing(gateway: Any, ask: Any) -> None:
    answer = ask(gateway.capture(), "/v1/embeddings", ASK)
    assert answer.header("x-apprentice-pair-id") is None
    assert gateway.captured() == []


@pytest.mark.parametrize("behaviour", ["cut-stream", "cut-body"])
def test_a_cut_answer_is_never_a_pair(gateway: Any, behaviour: str) -> None:
    with connect(gateway) as client:
        client.sendall(request_bytes(behaviour))
        while client.recv(65536):
            continue
    (row,) = gateway.captured()
    assert not row["complete"]
    assert not row["is_pair"]
    assert gateway.counted("cut_by_provider") == 1


def test_a_client_that_leaves_a_stream_ends_the_upstream_call(gateway: Any, provider: Any) -> None:
    with connect(gateway) as client:
        client.sendall(request_bytes("waiting-stream"))
        received = b""
        while b'"content":"po"' not in received:
            received += client.recv(65536)
    assert provider.cancelled.wait(10)
    eventually(gateway.captured)
    (row,) = gateway.captured()
    assert (row["complete"], row["is_pair"]) == (False, False)
    assert gateway.opened(row, "output") == "po"
    assert gateway.counted("client_left") == 1


def test_an_unreachable_provider_leaves_an_exchange(start: Any, ask: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gateway = start(url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        ask(gateway.capture(), CHAT, ASK)
    (row,) = gateway.captured()
    assert (row["status"], row["complete"]) == (502, False)
    assert gateway.counted("upstream_failures") == 1


class BusyDisk:
    """Keeps the spool from committing, as a disk does that does not come back."""

    def __init__(self, gateway: Any) -> None:
        file = gateway.workspace.home.spool / f"{gateway.spool.spool_id}.db"
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)

    def __enter__(self) -> BusyDisk:
        self._connection.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._connection.close()

    def release(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def test_the_last_byte_of_a_chunked_answer_waits_for_its_commit(start: Any) -> None:
    """Without a length any byte may be the last."""
    gateway = start(gateway={"commit_timeout_ms": 5_000})
    with BusyDisk(gateway) as disk, connect(gateway) as client:
        client.sendall(request_bytes("slow-chunked"))
        received = b""
        while b'"total_tokens"' not in received:
            received += client.recv(65536)
        time.sleep(0.6)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            received += client.recv(65536)
        assert not received.endswith(b"0\r\n\r\n")
        assert received.rstrip(b"\r\n").endswith(b'"total_tokens":12}')
        disk.release()
        client.settimeout(10)
        while not received.endswith(b"0\r\n\r\n"):
            received += client.recv(65536)
    [row] = gateway.captured()
    assert row["is_pair"]


def test_a_client_that_leaves_an_uncaptured_download_ends_it_at_the_provider(
    gateway: Any, provider: Any
) -> None:
    with connect(gateway) as client:
        head = "GET /v1/capture/openai/v1/files/f/content HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        client.sendall(f"{head}x-behave: download\r\n\r\n".encode())
        assert b"xxx" in client.recv(65536) + client.recv(65536)
        assert not provider.cancelled.is_set()
    assert provider.cancelled.wait(10)


def test_the_end_of_a_stream_waits_for_its_commit(start: Any) -> None:
    gateway = start(gateway={"commit_timeout_ms": 5_000})
    with BusyDisk(gateway) as disk, connect(gateway) as client:
        client.sendall(request_bytes("stream"))
        received = b""
        while b'"finish_reason"' not in received:
            received += client.recv(65536)
        client.settimeout(0.4)
        with pytest.raises(TimeoutError):
            client.recv(65536)
        assert b"[DONE]" not in received
        disk.release()
        client.settimeout(5)
        while b"[DONE]" not in received:
            received += client.recv(65536)
    assert gateway.counted("at_risk") == 0


def test_the_last_byte_of_a_body_waits_for_its_commit(start: Any, ask: Any) -> None:
    gateway = start(gateway={"commit_timeout_ms": 5_000})
    with BusyDisk(gateway) as disk:
        done = threading.Event()
        thread = threading.Thread(target=lambda: (ask(gateway.capture(), CHAT, ASK), done.set()))
        thread.start()
        assert not done.wait(0.4)
        disk.release()
        assert done.wait(5)
        thread.join()


def test_a_commit_that_takes_too_long_is_released_and_counted_at_risk(start: Any, ask: Any) -> None:
    gateway = start(gateway={"commit_timeout_ms": 50})
    with BusyDisk(gateway):
        assert ask(gateway.capture(), CHAT, ASK).body
        assert gateway.counted("at_risk") == 1
    alerts = gateway.workspace.state.alerts("default")
    assert [alert.kind for alert in alerts] == ["capture_at_risk"]
    eventually(gateway.captured)


@pytest.mark.parametrize("behaviour", ["json", "stream"])
def test_a_spool_that_fails_never_fails_the_call(gateway: Any, ask: Any, behaviour: str) -> None:
    gateway.spool.close()
    body = {**ASK, "stream": behaviour == "stream"}
    answer = ask(gateway.capture(), CHAT, body, {"x-behave": behaviour})
    assert answer.status == 200
    assert answer.body
    assert gateway.counted("lost") == 1
    assert [a.kind for a in gateway.workspace.state.alerts("default")] == ["capture_failed"]


def test_concurrent_calls_leave_one_pair_each(gateway: Any, ask: Any) -> None:
    ids: list[str] = []

    def calls() -> None:
        for _ in range(10):
            ids.append(ask(gateway.capture(), CHAT, ASK).header("x-apprentice-pair-id"))

    threads = [threading.Thread(target=calls) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == sorted(row["pair_id"] for row in gateway.captured())
    assert len(set(ids)) == 80
    assert gateway.counted("pairs") == 80


def test_a_customers_own_call_is_never_blocked_by_a_budget(start: Any, ask: Any) -> None:
    gateway = start(budget={"daily": 0.000001})
    for _ in range(3):
        assert ask(gateway.capture(), CHAT, ASK).status == 200
        gateway.flush()


def test_unless_the_configuration_asks_for_it(start: Any, provider: Any, ask: Any) -> None:
    gateway = start(budget={"daily": 0.000001, "enforce_passthrough": True})
    assert ask(gateway.capture(), CHAT, ASK).status == 200
    gateway.flush()
    eventually(lambda: ask(gateway.capture(), CHAT, ASK).status == 429)
    refused = ask(gateway.capture(), CHAT, ASK)
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert gateway.counted("budget_refused") >= 2


def test_a_tasks_own_limit_is_not_used_up_by_another_tasks_calls(start: Any, ask: Any) -> None:
    limit = {"daily": 0.000001, "enforce_passthrough": True}
    gateway = start(tasks=[{"name": name, "budget": limit} for name in ("tickets", "mail")])
    mail, tickets = ({"x-apprentice-namespace": name} for name in ("mail", "tickets"))
    assert ask(gateway.capture(), CHAT, ASK, mail).status == 200
    gateway.flush()
    eventually(lambda: ask(gateway.capture(), CHAT, ASK, mail).status == 429)
    assert ask(gateway.capture(), CHAT, ASK, tickets).status == 200


def test_an_unstreamed_answer_is_kept_though_its_client_left(gateway: Any, provider: Any) -> None:
    with connect(gateway) as client:
        unstreamed = request_bytes("waiting-json").replace(b'"stream":true', b'"stream":null')
        client.sendall(unstreamed)
        eventually(lambda: provider.seen)
    provider.go_on.set()
    eventually(gateway.captured)
    assert [row["is_pair"] for row in gateway.captured()] == [True]


def test_what_the_configuration_redacts_is_passed_on_and_never_kept(
    start: Any, ask: Any, provider: Any
) -> None:
    rules = ["email", {"pattern": "po(?=ng)", "replacement": "[PO]"}]
    gateway = start(capture={"redaction": rules})
    said = {**ASK, "messages": [{"role": "user", "content": "I am jo@mail.example, ping"}]}
    answer = ask(gateway.capture(), CHAT, said)
    (row,) = gateway.captured()
    assert b"pong" in answer.body
    assert gateway.opened(row, "input")["messages"][0]["content"] == "I am [EMAIL], ping"
    assert gateway.opened(row, "output") == "[PO]ng"
    assert row["is_pair"]
