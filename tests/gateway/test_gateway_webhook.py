"""Alerts posted to a real HTTP server that does as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from apprentice_pipeline.config import Config
from apprentice_pipeline.gateway.webhook import FIRST_PAUSE_S, LAST_PAUSE_S, MOST_AT_ONCE, Webhook
from apprentice_pipeline.records import now_us

MINUTE_US = 60_000_000
SAID = "a message that names nobody's text but stays at home all the same"


class Receiver:
    """A webhook's server: keeps what is posted, answers with `status`."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status = 200
        self.answering = threading.Event()
        self.answering.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/sec-ret-token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.answering.wait(60)
                receiver.paths.append(self.path)
                receiver.posts.append(json.loads(body))
                self.send_response(receiver.status)
                self.send_header("location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        return Handler

    def kinds(self) -> list[list[str]]:
        """The kinds of each post."""
        return [[alert["kind"] for alert in post["alerts"]] for post in self.posts]

    def close(self) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def webhook(workspace: Any, receiver: Receiver, clock: Clock) -> Webhook:
    return Webhook(receiver.url, workspace.state, workspace.home.run, clock=clock)


def alert(workspace: Any, kind: str, namespace: str = "tickets", at_us: int | None = None) -> None:
    workspace.state.add_alert("acme", namespace, kind, SAID, now_us=at_us or now_us())


def test_new_alerts_are_one_post_of_kinds_and_ids(
    webhook: Webhook, workspace: Any, receiver: Receiver
) -> None:
    for _ in range(50):
        alert(workspace, "capture_at_risk")
    alert(workspace, "drift", "payroll")
    for _ in range(3):
        webhook.look()
    (post,) = receiver.posts
    assert post["text"] == "apprentice: 2 new alerts: capture_at_risk, drift"
    risk = next(each for each in post["alerts"] if each["kind"] == "capture_at_risk")
    assert set(risk) == {"id", "kind", "tenant", "namespace", "count", "first_at", "last_at"}
    assert (risk["tenant"], risk["namespace"], risk["count"]) == ("acme", "tickets", 50)
    assert SAID not in json.dumps(post)


def test_what_was_posted_is_not_posted_again_after_a_restart(
    webhook: Webhook, workspace: Any, receiver: Receiver
) -> None:
    alert(workspace, "first")
    webhook.look()
    alert(workspace, "while-nothing-ran")
    again = Webhook(receiver.url, workspace.state, workspace.home.run)
    again.look()
    again.look()
    assert receiver.kinds() == [["first"], ["while-nothing-ran"]]


def test_an_alert_that_another_process_wrote_late_is_posted(
    webhook: Webhook, workspace: Any, receiver: Receiver
) -> None:
    alert(workspace, "first")
    webhook.look()
    alert(workspace, "late", at_us=now_us() - MINUTE_US)
    webhook.look()
    assert receiver.kinds() == [["first"], ["late"]]


def test_alerts_older_than_the_webhook_are_not_posted(
    workspace: Any, receiver: Receiver, clock: Clock
) -> None:
    alert(workspace, "long-ago", at_us=now_us() - 10 * MINUTE_US)
    Webhook(receiver.url, workspace.state, workspace.home.run, clock=clock).look()
    assert receiver.posts == []


@pytest.mark.parametrize("status", [500, 404, 307])
def test_a_failing_webhook_is_counted_tried_again_later_and_later_and_loses_nothing(
    webhook: Webhook, workspace: Any, receiver: Receiver, clock: Clock, status: int, capsys: Any
) -> None:
    receiver.status = status
    alert(workspace, "drift")
    pauses, pause = [], FIRST_PAUSE_S
    for _ in range(12):
        webhook.look()
        tries = len(receiver.posts)
        clock.now += pause * 0.99
        webhook.look()
        assert len(receiver.posts) == tries
        clock.now += pause * 0.02
        pauses.append(pause)
        pause = min(pause * 2, LAST_PAUSE_S)
    assert len(receiver.posts) == 12
    assert workspace.state.counters("", "")["webhook_failures"] == 12
    assert capsys.readouterr().err.count("alerts cannot be posted") == 1
    receiver.status = 204
    alert(workspace, "meanwhile")
    webhook.look()
    assert sorted(receiver.kinds()[-1]) == ["drift", "meanwhile"]
    assert set(receiver.paths) == {"/hook/sec-ret-token"}


def test_a_webhook_that_is_not_there_is_a_failure_that_does_not_name_it(
    workspace: Any, receiver: Receiver, capsys: Any
) -> None:
    webhook = Webhook(receiver.url, workspace.state, workspace.home.run)
    receiver.close()
    alert(workspace, "drift")
    webhook.look()
    assert workspace.state.counters("", "")["webhook_failures"] == 1
    said = capsys.readouterr().err
    assert "alerts cannot be posted: ConnectError" in said
    assert "sec-ret" not in said


def test_a_flood_is_bounded_and_the_newest_are_posted(
    webhook: Webhook, workspace: Any, receiver: Receiver
) -> None:
    start_us = now_us()
    for number in range(MOST_AT_ONCE + 20):
        alert(workspace, f"kind-{number}", at_us=start_us + number)
    webhook.look()
    assert len(receiver.posts[0]["alerts"]) == MOST_AT_ONCE
    assert receiver.posts[0]["alerts"][0]["kind"] == f"kind-{MOST_AT_ONCE + 19}"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"since_us": "x"}', '{"posted": 3}'])
def test_a_spoiled_memory_begins_anew(
    workspace: Any, receiver: Receiver, clock: Clock, content: str
) -> None:
    (workspace.home.run / "alerts-posted.json").write_text(content)
    webhook = Webhook(receiver.url, workspace.state, workspace.home.run, clock=clock)
    alert(workspace, "drift")
    webhook.look()
    assert receiver.kinds() == [["drift"]]


@pytest.mark.parametrize("address", ["ftp://x", "hooks.example/x", "file:///etc/passwd"])
def test_an_address_that_is_no_web_address_is_a_fault_of_the_configuration(address: str) -> None:
    with pytest.raises(ValueError, match="https://"):
        Config.model_validate({"alerts": {"webhook": address}})


def test_a_gateway_posts_its_alerts_and_serves_while_the_webhook_hangs(
    serve: Any, receiver: Receiver, ask: Any, workspace: Any
) -> None:
    receiver.answering.clear()
    command = serve(
        alerts={"webhook": receiver.url},
        gateway={"commit_timeout_ms": 1},
        environment={"APPRENTICE_HOME": str(workspace.home.root)},
    )
    alert(workspace, "drift")
    for _ in range(20):
        assert ask(command.capture(), "/v1/chat/completions", {"messages": []}).status == 200
    assert receiver.posts == []
    receiver.answering.set()
    end = time.monotonic() + 60
    while not any("drift" in kinds for kinds in receiver.kinds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert command.stop() == 0
