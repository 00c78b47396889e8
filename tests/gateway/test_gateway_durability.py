"""When the disk, the lake or the clock fails: calls go through, and what was not kept is known.

The exact sum of every test: what clients got whole is what was kept plus what was counted lost.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from apprentice_pipeline.records import date_of
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.workspace import Workspace
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
DAY_S = 86_400


def body(number: int = 0, size: str = "") -> dict[str, Any]:
    text = f"ping {number} {size}"
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}


def call(ask: Any, gateway: Any, number: int = 0, size: str = "", behave: str = "json") -> str:
    """One call that must succeed; its pair id."""
    streamed = {"stream": True} if behave == "stream" else {}
    answer = ask(gateway.capture(), CHAT, {**body(number, size), **streamed}, {"x-behave": behave})
    assert answer.status == 200
    assert answer.body
    return str(answer.header("x-apprentice-pair-id"))


@contextlib.contextmanager
def full_disk(home: Path) -> Iterator[None]:
    """`home`'s own small disk, filled to the last byte; without the right to mount, a limit on
    the size of this process's files."""
    ballast = home / "ballast"
    if not os.path.ismount(home):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture(params=["disk", "limit"])
def small_home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The first gateway's home, on a disk of 6 MB where this process may mount one."""
    home = tmp_path / "home0"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(home)]
    mounted = request.param == "disk" and not subprocess.run(mount, capture_output=True).returncode
    yield home
    if mounted:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_on_a_full_disk_calls_go_through_and_every_lost_one_is_counted(
    small_home: Path, start: Any, ask: Any
) -> None:
    """Spool, state and lake share that disk: the counts wait until there is room for them."""
    gateway = start(gateway={"commit_timeout_ms": 30_000})
    delivered = [call(ask, gateway)]
    with full_disk(small_home):
        for number in range(12):
            delivered.append(
                call(ask, gateway, number, os.urandom(30_000).hex(), ("json", "stream")[number % 2])
            )
        gateway.flush()
    delivered.append(call(ask, gateway))
    kept = {row["pair_id"] for row in gateway.captured()}
    lost = [each for each in delivered if each not in kept]
    assert delivered[0] in kept
    assert delivered[-1] in kept
    assert len(lost) >= 3
    assert gateway.counted("lost") == len(lost)
    assert len(kept) == len(delivered) - len(lost)
    assert "capture_failed" in [alert.kind for alert in gateway.workspace.state.alerts("default")]


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(spool_folder: Path) -> Iterator[None]:
    """Another process holds the write lock of the spool's file."""
    (file,) = spool_folder.glob("*.db")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        assert holder.stdin is not None
        holder.stdin.close()


def test_while_another_process_locks_the_spool_calls_go_through_and_are_kept_later(
    start: Any, ask: Any
) -> None:
    """Each is counted as at risk: it was released before it was safe. In the end none is lost."""
    gateway = start(gateway={"commit_timeout_ms": 50})
    home = gateway.workspace.home
    with held_elsewhere(home.spool):
        delivered = [call(ask, gateway, number) for number in range(5)]
        assert gateway.counted("at_risk") == 5
        kinds = [alert.kind for alert in gateway.workspace.state.alerts("default")]
        assert kinds == ["capture_at_risk"]
    delivered.append(call(ask, gateway))
    assert sorted(row["pair_id"] for row in gateway.captured()) == sorted(delivered)
    assert gateway.counted("lost") == 0


def test_what_is_lost_after_its_response_was_released_is_counted_too(
    small_home: Path, start: Any, ask: Any
) -> None:
    """The commit first takes too long, and then fails."""
    gateway = start(gateway={"commit_timeout_ms": 50})
    with full_disk(small_home):
        with held_elsewhere(gateway.workspace.home.spool):
            lost = call(ask, gateway, 0, os.urandom(100_000).hex())
            gateway.flush()
        eventually(lambda: gateway.spool.pending == 0)
    eventually(lambda: gateway.counted("lost") == 1)
    assert gateway.counted("at_risk") == 1
    kept = call(ask, gateway)
    assert [row["pair_id"] for row in gateway.captured()] == [kept]
    assert lost != kept


def test_what_is_lost_after_its_client_has_left_is_counted_too(
    small_home: Path, start: Any, ask: Any
) -> None:
    """A stream's end waits for its commit; the client leaves; then the commit fails."""
    gateway = start(gateway={"commit_timeout_ms": 30_000})
    kept = call(ask, gateway)
    content = orjson.dumps({**body(0, os.urandom(200_000).hex()), "stream": True})
    head = f"POST /v1/capture/openai{CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-behave: stream\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    with full_disk(small_home):
        with held_elsewhere(gateway.workspace.home.spool):
            with socket.create_connection(("127.0.0.1", gateway.server.port)) as client:
                client.sendall(head.encode() + content)
                eventually(lambda: gateway.spool.pending == 1)
            time.sleep(0.5)
        eventually(lambda: gateway.spool.pending == 0)
    eventually(lambda: gateway.counted("lost") == 1)
    assert gateway.counted("client_left") == 1
    assert [row["pair_id"] for row in gateway.captured()] == [kept]


def test_while_the_lake_cannot_be_reached_rows_wait_and_then_arrive_by_themselves(
    serve: Any, ask: Any, tmp_path: Path
) -> None:
    """A file stands where the lake's folder should be, as when a mount has come off."""
    obstacle = tmp_path / "mnt"
    obstacle.write_text("not a folder")
    gateway = serve(store={"lake_uri": str(obstacle / "lake"), "drain_interval_s": 0.2})
    environment = {
        "APPRENTICE_HOME": str(gateway.home),
        "APPRENTICE_CONFIG": str(gateway.home.parent / "apprentice.yaml"),
    }
    with contextlib.closing(Workspace.open(load_settings(environment))) as workspace:
        delivered = [call(ask, gateway, number) for number in range(5)]
        eventually(lambda: "gateway_drain" in [each.kind for each in workspace.state.alerts()])
        delivered += [call(ask, gateway, number, behave="stream") for number in range(3)]
        assert waiting_rows(workspace.home.spool) == 8
        obstacle.unlink()
        obstacle.mkdir()
        eventually(lambda: waiting_rows(workspace.home.spool) == 0)
        rows = workspace.lake.scan("default", "captures").collect()["pair_id"].to_list()
        assert sorted(rows) == sorted(delivered)
        assert workspace.state.counters("default").get("lost", 0) == 0


def test_an_object_store_that_does_not_answer_is_a_failed_drain_that_loses_nothing(
    gateway: Any, ask: Any
) -> None:
    delivered = [call(ask, gateway, number) for number in range(4)]
    eventually(lambda: gateway.spool.pending == 0)
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_REGION": "none",
        "max_retries": "1",
        "retry_timeout": "1s",
    }
    folder = gateway.workspace.home.spool
    report = drain(folder, Lake("s3://nowhere/lake", options))
    assert (report.rows, report.failed, report.removed) == (0, 1, 0)
    assert report.error
    assert "none" not in report.error
    assert waiting_rows(folder) == 4
    assert sorted(row["pair_id"] for row in gateway.captured()) == sorted(delivered)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(seconds)` sets the wall clock that Python code sees off by so much; the monotonic
    clock runs on, as it does when an operator or NTP sets the other."""
    off = [0.0]
    real_s, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real_s() + off[0])
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(off[0] * 1e9))

    def jump(seconds: float) -> None:
        off[0] = seconds

    return jump


def test_when_the_clock_jumps_calls_go_on_and_each_is_counted_on_its_day(
    clock: Callable[[float], None], start: Any, ask: Any
) -> None:
    """Forward, far back, and home again; ids stay unique, durations stay durations."""
    budget = {"daily": 1000, "enforce_passthrough": True}
    gateway = start(budget=budget, gateway={"commit_timeout_ms": 30_000})
    delivered, days = [], {}
    for jump in (0, 3 * DAY_S, -5 * DAY_S, 0):
        clock(jump)
        day = date_of(time.time_ns() // 1_000)
        delivered += [call(ask, gateway, number) for number in range(3)]
        days[day] = days.get(day, 0) + 3
        gateway.flush()
    rows = gateway.captured()
    assert sorted(row["pair_id"] for row in rows) == sorted(delivered)
    assert len(set(delivered)) == len(delivered)
    assert all(0 <= row["latency_us"] < 60_000_000 for row in rows)
    by_date: dict[str, int] = {}
    for row in rows:
        by_date[row["date"]] = by_date.get(row["date"], 0) + 1
    assert by_date == days
    for day, calls in days.items():
        counters = gateway.workspace.state.counters(
            "default", "default", since_day=day, until_day=day
        )
        assert counters["requests"] == counters["pairs"] == calls, day
    assert gateway.counted("lost") == gateway.counted("at_risk") == 0


def test_a_key_is_checked_and_revoked_whatever_the_clock_does(
    clock: Callable[[float], None], start: Any, ask: Any
) -> None:
    gateway = start(gateway={"key_cache_s": 0.2})
    state = gateway.workspace.state
    key = state.create_key(tenant="default", namespace=None, role="tenant", now_us=1)
    headers = {"x-apprentice-key": key.key}

    def status() -> int:
        return int(ask(gateway.capture(), CHAT, body(), headers).status)

    for jump in (0, 400 * DAY_S, -400 * DAY_S):
        clock(jump)
        assert status() == 200
    state.revoke_key(key.id, time.time_ns() // 1_000)
    eventually(lambda: status() == 401)
    for jump in (0, 400 * DAY_S):
        clock(jump)
        assert status() == 401


def test_a_deadline_holds_while_the_clock_jumps_back(
    clock: Callable[[float], None], start: Any, ask: Any
) -> None:
    gateway = start(gateway={"commit_timeout_ms": 50})
    with held_elsewhere(gateway.workspace.home.spool):
        clock(-30 * DAY_S)
        call(ask, gateway)
        assert gateway.counted("at_risk") == 1
        clock(30 * DAY_S)
        call(ask, gateway)
        assert gateway.counted("at_risk") == 2
    assert len(gateway.captured()) == 2


def test_after_a_budget_window_the_clock_opens_the_next_and_back_again(
    clock: Callable[[float], None], start: Any, ask: Any
) -> None:
    """A spent day is spent again once the clock comes back to it; no other day is."""
    gateway = start(budget={"daily": 0.000001, "enforce_passthrough": True})
    assert ask(gateway.capture(), CHAT, body()).status == 200
    gateway.flush()

    def is_open() -> bool:
        return ask(gateway.capture(), CHAT, body()).status == 200

    eventually(lambda: not is_open())
    gateway.flush()
    clock(2 * DAY_S)
    eventually(is_open)
    gateway.flush()
    eventually(lambda: not is_open())
    gateway.flush()
    clock(-2 * DAY_S)
    eventually(is_open)
    clock(0)
    eventually(lambda: not is_open())


def test_the_damage_of_one_spool_is_alerted_and_capture_goes_on_in_another(
    gateway: Any, ask: Any
) -> None:
    first = call(ask, gateway)
    assert [row["pair_id"] for row in gateway.captured()] == [first]
    (file,) = gateway.workspace.home.spool.glob("*.db")
    file.unlink()
    second = call(ask, gateway, 1)
    assert sorted(row["pair_id"] for row in gateway.captured()) == sorted([first, second])
    assert gateway.spool.damaged == 1
