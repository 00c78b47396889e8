"""Keys that change under a running gateway: every worker follows at once."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WORKERS = 2
EACH = 3
PATH = "/v1/capture/openai/v1/chat/completions"
ASK = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]})


class Served:
    """`apprentice serve` with two workers, and connections that each of them has accepted."""

    def __init__(self, home: Any, upstream: str) -> None:
        home.configure(
            f'remote: {{endpoints: {{openai: "{upstream}"}}}}\ngateway: {{key_cache_s: 60}}\n'
        )
        command = [sys.executable, "-m", "apprentice_pipeline.cli", "serve"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--workers", str(WORKERS)],
            stderr=subprocess.PIPE,
            env={**os.environ, **home.environment},
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        self.port = int(found[1])
        self.connections: list[http.client.HTTPConnection] = []

    def connect(self) -> None:
        """Keeps connections to every worker: the others are halted while it accepts them."""
        pids = self._workers()
        for accepting in pids:
            others = [pid for pid in pids if pid != accepting]
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(EACH):
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                    connection.request("GET", "/healthz")
                    assert connection.getresponse().read()
                    self.connections.append(connection)
            finally:
                for pid in others:
                    os.kill(pid, signal.SIGCONT)

    def _workers(self) -> list[int]:
        end = time.monotonic() + 60
        while True:
            task = Path(f"/proc/{self.process.pid}/task")
            children = " ".join(f.read_text() for f in task.glob("*/children")).split()
            found = [int(pid) for pid in children if self._serves(pid)]
            if len(found) == WORKERS:
                return found
            assert time.monotonic() < end
            time.sleep(0.05)

    def _serves(self, pid: str) -> bool:
        """Whether the process is a worker that polls: it has begun to serve."""
        if "gateway.worker" not in Path(f"/proc/{pid}/cmdline").read_text():
            return False
        wait = Path(f"/proc/{pid}/wchan").read_text()
        return "epoll" in wait or wait == "0"

    def statuses(self, headers: dict[str, str]) -> list[int]:
        """One request over every connection."""
        found = []
        for connection in self.connections:
            connection.request("POST", PATH, ASK, {"content-type": "application/json", **headers})
            response = connection.getresponse()
            response.read()
            found.append(response.status)
        return found

    def stop(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def served(home: Any, provider: Any) -> Iterator[Served]:
    served = Served(home, provider.url)
    yield served
    served.stop()


@pytest.fixture
def command(home: Any, run_apprentice: Any) -> Callable[..., Any]:
    """`command("key", "list")`: what an `apprentice` command on the same home prints."""

    def run(*arguments: str) -> Any:
        done = run_apprentice(home, *arguments, "--json")
        assert done.status == 0, done.err
        return done.document

    return run


def test_every_worker_follows_every_change_of_a_key_at_once(
    served: Served, provider: Any, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights would be remembered for a minute if nothing told the workers."""
    served.connect()
    everywhere = WORKERS * EACH
    assert served.statuses({}) == [200] * everywhere

    first = command("key", "create", "--tenant", "acme", "--namespace", "tickets")
    assert served.statuses({}) == [401] * everywhere
    mine = {"x-apprentice-key": first["key"]}
    assert served.statuses(mine) == [200] * everywhere

    second = command("key", "rotate", first["id"], "--grace", "1h")
    assert (second["tenant"], second["namespace"], second["role"]) == ("acme", "tickets", "capture")
    for token in (first["key"], second["key"]):
        assert served.statuses({"x-apprentice-key": token}) == [200] * everywhere

    command("key", "revoke", first["id"])
    assert served.statuses(mine) == [401] * everywhere

    third = command("key", "rotate", second["id"])
    assert served.statuses({"x-apprentice-key": second["key"]}) == [401] * everywhere
    assert served.statuses({"x-apprentice-key": third["key"]}) == [200] * everywhere

    virtual = {"authorization": f"Bearer {third['key']}"}
    assert served.statuses(virtual) == [401] * everywhere
    for secret in ("sk-one", "sk-two"):
        place = ("--tenant", "acme", "--provider", "openai")
        monkeypatch.setenv("THEIRS", secret)
        command("provider-key", "set", *place, "--env", "THEIRS")
        provider.seen.clear()
        assert served.statuses(virtual) == [200] * everywhere
        sent = [dict(request.headers)["authorization"] for request in provider.seen]
        assert sent == [f"Bearer {secret}"] * everywhere

    rotated = command("key", "rotate-master")
    assert rotated["data_keys"] >= 1
    assert served.statuses(virtual) == [200] * everywhere
    monkeypatch.setenv("THEIRS", "sk-three")
    command("provider-key", "set", *place, "--env", "THEIRS")
    provider.seen.clear()
    assert served.statuses(virtual) == [200] * everywhere
    assert {dict(r.headers)["authorization"] for r in provider.seen} == {"Bearer sk-three"}

    command("provider-key", "delete", *place)
    assert served.statuses(virtual) == [401] * everywhere
    command("key", "revoke", third["id"])
    assert served.statuses({"x-apprentice-key": third["key"]}) == [401] * everywhere
