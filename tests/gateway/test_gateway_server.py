"""The processes: one supervisor, its workers, and what survives their deaths."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.gateway.server import serve
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.workspace import Workspace
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
SERVE = """
import os, sys
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.gateway.server import serve
serve(load_settings(os.environ), "127.0.0.1", 0, int(sys.argv[1]))
"""


class Served:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, upstream: str, workers: int) -> None:
        config = folder / "apprentice.yaml"
        config.write_text(
            f'remote: {{endpoints: {{openai: "{upstream}"}}}}\n'
            "gateway: {commit_timeout_ms: 5000}\n"
        )
        self.environment = {
            **os.environ,
            "APPRENTICE_HOME": str(folder / "home"),
            "APPRENTICE_CONFIG": str(config),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(workers)],
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline().decode()
        found = re.search(r"http://\S+", line)
        assert found, line
        self.url = found.group()

    def workers(self) -> list[int]:
        """The workers' process ids, from the kernel."""
        task = Path(f"/proc/{self.process.pid}/task")
        children = " ".join(f.read_text() for f in task.glob("*/children")).split()
        return [int(pid) for pid in children if alive(int(pid))]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def rows(self) -> list[str]:
        """The pair ids in the lake, after a drain of what the dead left."""
        workspace = Workspace.open(load_settings(self.environment))
        drain(workspace.home.spool, workspace.lake)
        ids = workspace.lake.scan("default", "captures").collect()["pair_id"].to_list()
        assert workspace.state.alerts() == []
        workspace.close()
        return [str(pair_id) for pair_id in ids]


@pytest.fixture
def served(tmp_path: Path, provider: Any) -> Iterator[Served]:
    served = Served(tmp_path, provider.url, workers=2)
    yield served
    if served.process.poll() is None:
        served.stop()


def alive(pid: int) -> bool:
    try:
        return "gateway.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def more(delivered: list[str], count: int) -> None:
    """Waits for `count` further answers."""
    goal = len(delivered) + count
    eventually(lambda: len(delivered) >= goal, seconds=60)


def test_every_delivered_answer_is_kept_exactly_once_when_workers_are_killed(
    served: Served, ask: Any
) -> None:
    """And at the end the gateway stops gracefully, leaving no process and no pid file."""
    delivered: list[str] = []
    stopping = threading.Event()

    def calls() -> None:
        while not stopping.is_set():
            try:
                answer = ask(served.url, f"/v1/capture/openai{CHAT}", ASK)
            except (OSError, http.client.HTTPException):
                continue
            if answer.status == 200:
                delivered.append(answer.header("x-apprentice-pair-id"))

    threads = [threading.Thread(target=calls) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        more(delivered, 60)
        victim = served.workers()[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda gone=victim: len(served.workers()) == 2 and gone not in served.workers())
    more(delivered, 60)
    stopping.set()
    for thread in threads:
        thread.join()
    home, workers = Path(served.environment["APPRENTICE_HOME"]), served.workers()
    assert (home / "run" / "gateway.pid").read_text().strip() == str(served.process.pid)
    assert served.stop() == 0
    assert not (home / "run" / "gateway.pid").exists()
    assert not any(alive(pid) for pid in workers)
    rows = served.rows()
    assert len(rows) == len(set(rows))
    assert set(delivered) <= set(rows)
    assert len(delivered) >= 180


def test_metrics_sum_over_workers_which_leave_when_the_supervisor_is_killed(
    served: Served, ask: Any
) -> None:
    for _ in range(20):
        ask(served.url, f"/v1/capture/openai{CHAT}", ASK)

    def counted() -> bool:
        text = ask(served.url, "/metrics").body.decode()
        return 'apprentice_events_total{event="pairs"} 20.0' in text

    eventually(counted)
    workers = served.workers()
    assert len(workers) == 2
    served.stop(signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in workers))


def test_an_open_door_without_keys_is_refused(tmp_path: Path) -> None:
    settings = load_settings({"APPRENTICE_HOME": str(tmp_path)})
    for host in ("0.0.0.0", "::", "192.0.2.1", ""):
        with pytest.raises(UsageError) as refused:
            serve(settings, host, 0, 1)
        assert "loopback" in refused.value.message
        assert "key create" in refused.value.remedy


def test_a_call_under_way_is_finished_after_sigterm(serve: Any, ask: Any, provider: Any) -> None:
    gateway = serve()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, gateway.capture(), CHAT, ASK, {"x-behave": "waiting-json"})
        eventually(lambda: provider.seen)
        gateway.process.terminate()
        time.sleep(1)
        provider.go_on.set()
        assert asked.result().status == 200
    assert gateway.stop() == 0


def test_a_call_that_outlasts_the_grace_is_told_so_recorded_and_counted(
    serve: Any, ask: Any, provider: Any
) -> None:
    gateway = serve(gateway={"shutdown_grace_s": 1})
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, gateway.capture(), CHAT, ASK, {"x-behave": "waiting-json"})
        eventually(lambda: provider.seen)
        assert gateway.stop() == 0
        answer = asked.result()
    assert answer.status == 503
    assert b"shut down" in answer.body
    with closing(Workspace.open(load_settings({"APPRENTICE_HOME": str(gateway.home)}))) as home:
        assert home.state.counters("default")["cut_by_shutdown"] == 1
        [row] = home.lake.scan("default", "captures").collect().to_dicts()
    assert (row["status"], row["is_pair"]) == (503, False)
    assert row["pair_id"] == answer.header("x-apprentice-pair-id")


def test_a_lake_that_does_not_answer_holds_no_shutdown_up(serve: Any, ask: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        options = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_REGION": "none",
        }
        store = {"lake_uri": "s3://nowhere/lake", "lake_options": options}
        gateway = serve(store={**store, "drain_interval_s": 3_600})
        assert ask(gateway.capture(), CHAT, ASK).status == 200
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 45
