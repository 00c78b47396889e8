"""`apprentice serve` on a disk without a byte left: it serves, and it says what it did not keep."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.gateway.metrics_files import make_folder
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.workspace import Workspace
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Takes every byte of the disk; the file that does, which goes on where it is there."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    return ballast


def call(ask: Any, gateway: Any, namespace: str) -> str:
    """One call that must succeed, past what a worker's end cuts; its pair id."""
    for _ in range(40):
        try:
            answer = ask(gateway.capture(), CHAT, ASK, {"x-apprentice-namespace": namespace})
        except (OSError, http.client.HTTPException):
            time.sleep(0.25)
            continue
        assert answer.status == 200
        return str(answer.header("x-apprentice-pair-id"))
    raise AssertionError("no answer")


def metric(ask: Any, gateway: Any, event: str) -> float:
    text = ask(gateway.url, "/metrics").body.decode()
    found = re.search(rf'^apprentice_events_total{{event="{event}"}} (\S+)$', text, re.M)
    return float(found.group(1)) if found else 0.0


def test_a_full_disk_stops_no_call_and_every_exchange_it_costs_is_counted(
    serve: Any, ask: Any, disk: Path
) -> None:
    """New namespaces too; a worker that dies meanwhile comes back; capture resumes by itself."""
    environment = {"APPRENTICE_HOME": str(disk / "home")}
    gateway = serve(
        environment=environment,
        gateway={"commit_timeout_ms": 10_000},
        store={"drain_interval_s": 3_600},
    )
    delivered = [call(ask, gateway, "first")]
    ballast = fill(disk)
    delivered += [call(ask, gateway, f"new-{number}") for number in range(300)]
    metric(ask, gateway, "lost")  # what was counted is written now: the worker is to be killed
    [victim] = gateway.workers()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: gateway.workers() not in ([], [victim]))
    delivered += [call(ask, gateway, f"newer-{number}") for number in range(20)]
    assert metric(ask, gateway, "lost") >= 20
    ballast.unlink()

    def captured() -> bool:
        before = metric(ask, gateway, "lost")
        delivered.append(call(ask, gateway, "last"))
        return metric(ask, gateway, "lost") == before

    eventually(captured)
    lost = metric(ask, gateway, "lost")
    assert gateway.stop() == 0
    with contextlib.closing(Workspace.open(load_settings(environment))) as workspace:
        drain(workspace.home.spool, workspace.lake)
        kept = workspace.lake.scan("default", "captures").collect()["pair_id"].to_list()
        alerts = {alert.kind for alert in workspace.state.alerts("default")}
    assert set(kept) <= set(delivered)
    assert delivered[-1] in kept
    assert lost == len(delivered) - len(kept)
    assert "capture_failed" in alerts
    assert "Bus error" not in gateway.said()


def everybody(gateway: Any) -> list[int]:
    """The supervisor, its workers, and their writers."""
    found = [gateway.process.pid, *gateway.workers()]
    for worker in gateway.workers():
        for task in Path(f"/proc/{worker}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


@pytest.mark.parametrize("full", [True, False], ids=["full", "room again"])
def test_what_a_full_disk_cost_is_counted_though_everybody_is_killed(
    serve: Any, ask: Any, disk: Path, full: bool
) -> None:
    """The state database takes no counts either; the next server has them once it does."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("this system has no folder in memory")
    environment = {"APPRENTICE_HOME": str(disk / "home")}
    sections = {"gateway": {"commit_timeout_ms": 10_000}, "store": {"drain_interval_s": 3_600}}
    gateway = serve(environment=environment, **sections)
    delivered = [call(ask, gateway, "first")]
    ballast = fill(disk)
    delivered += [call(ask, gateway, f"new-{number}") for number in range(100)]
    victims = everybody(gateway)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    gateway.process.wait()
    eventually(lambda: not any(Path(f"/proc/{victim}").exists() for victim in victims))
    if full:
        fill(disk)  # what the dead had left
    else:
        ballast.unlink()
    gateway = serve(environment=environment, **sections)
    delivered += [call(ask, gateway, f"newer-{number}") for number in range(10)]
    ballast.unlink(missing_ok=True)
    with contextlib.closing(Workspace.open(load_settings(environment))) as workspace:
        eventually(lambda: workspace.state.counters("default").get("lost", 0) > 0)
        assert gateway.stop() == 0
        drain(workspace.home.spool, workspace.lake)
        kept = workspace.lake.scan("default", "captures").collect()["pair_id"].to_list()
        counters = workspace.state.counters("default")
        alerts = {alert.kind for alert in workspace.state.alerts("default")}
    assert delivered[0] in kept
    assert counters["lost"] == counters["at_risk"] == len(delivered) - len(kept)
    assert "capture_failed" in alerts


COUNT = """
import os, sys
from apprentice_pipeline.gateway.metrics import Metrics
metrics = Metrics()
for number in range(int(sys.argv[1])):
    metrics.add_events("acme", f"n{number}", {"pairs": 1})
print(metrics.exposition(tenants=True).decode().count('event="pairs",namespace='))
"""


@pytest.mark.parametrize("room", [0, 70_000, 200_000])
def test_metrics_on_a_full_disk_stop_at_new_series_and_end_nobody(disk: Path, room: int) -> None:
    """Where there is no folder in memory, or that is full too."""
    folder = disk / "metrics"
    folder.mkdir()
    ballast = fill(disk)
    os.truncate(ballast, max(ballast.stat().st_size - room, 0))
    command = [sys.executable, "-c", COUNT, "3000"]
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3_000


def test_the_folder_of_a_server_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    make = "import os, pathlib, sys\nfrom apprentice_pipeline.gateway.metrics_files import *\n"
    make += "print(make_folder(pathlib.Path(sys.argv[1])))\nos._exit(1)"
    command = [sys.executable, "-c", make, str(tmp_path)]
    left = Path(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    assert left.is_dir()
    mine = make_folder(tmp_path)
    assert not left.exists()
    assert mine.stat().st_mode & 0o777 == 0o700
    mine.rmdir()
