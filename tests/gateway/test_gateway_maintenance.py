"""Retention and compaction by `apprentice serve` alone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from apprentice_pipeline.records import Exchange, Usage, new_pair_id, now_us
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.rows import record_rows
from apprentice_pipeline.store.workspace import Workspace
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
DAY_US = 86_400_000_000
LAST = "apprentice_maintenance_last_success_timestamp_seconds "
OFTEN = {"maintenance_interval_s": 0.3}


def opened(home: Path) -> Any:
    return closing(Workspace.open(load_settings({"APPRENTICE_HOME": str(home)})))


def put(workspace: Workspace, days: float, namespace: str = "default") -> str:
    """One exchange of so long ago, in a file of its own; its id."""
    at_us = now_us() - int(days * DAY_US)
    made = Exchange(
        new_pair_id(at_us), "default", namespace, at_us, "openai", "chat.completions", "m", 200,
        True, False, "remote", {"messages": ["?"]}, "yes", 1, None, Usage(), None,
    )  # fmt: skip
    for table, rows in record_rows(workspace.vault, "default", [made]).items():
        workspace.lake.append("default", table, rows)
    return made.pair_id


def ids(workspace: Workspace) -> set[str]:
    return set(workspace.lake.scan("default", "captures").collect()["pair_id"].to_list())


def files(workspace: Workspace, namespace: str = "default") -> int:
    return len(workspace.lake.files("default", "captures", namespace)[1])


def rounds(pid: int) -> list[int]:
    """The processes that do a round for this server."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                line = Path(f"/proc/{child}/cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += [int(child)] if "maintenance_process" in line else []
    return found


def alive(pid: int) -> bool:
    try:
        return "maintenance_process" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_serve_alone_applies_each_streams_retention_and_merges_files(serve: Any, ask: Any) -> None:
    rules = {"capture": {"retention_days": 30}, "tasks": [{"name": "short", "retention_days": 5}]}
    gateway = serve(store=OFTEN, **rules)
    with opened(gateway.home) as workspace:
        for days, namespace in ((31, "default"), (6, "short")):
            put(workspace, days, namespace)
        kept = {put(workspace, 6), put(workspace, 4, "short")}
        for _ in range(2):
            answer = ask(gateway.capture(), CHAT, ASK)
            kept.add(answer.header("x-apprentice-pair-id"))
            eventually(lambda: kept <= ids(workspace))
        eventually(lambda: ids(workspace) == kept)
        stones = workspace.state.tombstones("default")
        assert len({stone.pair_id for stone in stones}) == len(stones) == 2
        eventually(lambda: workspace.state.rounds.find("maintenance").done_us)  # type: ignore[union-attr]
        text = ask(gateway.url, "/metrics").body.decode()
        told = [line for line in text.splitlines() if line.startswith(LAST)]
        assert abs(float(told[0].split()[1]) - time.time()) < 300
        assert "apprentice_maintenance_failures_total 0.0" in text
        assert workspace.state.alerts() == []
    assert gateway.stop() == 0


def test_the_days_first_round_merges_everything(serve: Any) -> None:
    gateway = serve(store={"maintenance_interval_s": 3_600})
    with opened(gateway.home) as workspace:
        kept = {put(workspace, 1) for _ in range(3)}
        before = files(workspace)
        assert before == 3
        gateway.stop()
        serve_again(serve, gateway, store=OFTEN)
        eventually(lambda: files(workspace) == 1)
        assert ids(workspace) == kept


def serve_again(serve: Any, gateway: Any, **sections: Any) -> Any:
    """A server of other sections on the same home."""
    return serve(environment={"APPRENTICE_HOME": str(gateway.home)}, **sections)


def test_a_round_that_fails_is_told_with_its_remedy_and_holds_no_call_or_tenant_up(
    serve: Any, ask: Any
) -> None:
    gateway = serve(store=OFTEN, capture={"retention_days": 30})
    with opened(gateway.home) as workspace:
        old = put(workspace, 31)
        broken = workspace.home.lake / "aaa" / "captures" / "_delta_log"
        workspace.lake._register("aaa")
        broken.mkdir(parents=True)
        (broken / f"{0:020d}.json").write_text("no delta log")
        told = eventually(
            lambda: [
                each.message
                for each in workspace.state.alerts()
                if each.kind == "gateway_maintenance"
            ]
        )
        assert "1 of the lake's tenants could not be looked after" in told[0]
        assert "lake_uri" in told[0]
        assert old not in eventually(lambda: [ids(workspace)])[0]
        assert ask(gateway.capture(), CHAT, ASK).status == 200
        assert "retention and compaction failed" in gateway.said()
        text = ask(gateway.url, "/metrics").body.decode()
        assert "apprentice_maintenance_failures_total 0.0" not in text
        (broken / f"{0:020d}.json").unlink()
        broken.rmdir()
        done = workspace.state.rounds.find("maintenance").done_us  # type: ignore[union-attr]
        eventually(
            lambda: workspace.state.rounds.find("maintenance").done_us > done  # type: ignore[union-attr]
        )


def test_a_round_that_is_killed_comes_again_and_one_whose_server_is_killed_leaves(
    serve: Any, ask: Any
) -> None:
    gateway = serve(store=OFTEN, capture={"retention_days": 30})
    with opened(gateway.home) as workspace:
        for _ in range(3):
            [pid] = eventually(lambda: rounds(gateway.process.pid))
            os.kill(pid, signal.SIGKILL)
            eventually(lambda gone=pid: not alive(gone))
        old, young = put(workspace, 31), put(workspace, 29)
        eventually(lambda: ids(workspace) == {young})
        assert [stone.pair_id for stone in workspace.state.tombstones("default")] == [old]
        assert "-9" in gateway.said()
        [pid] = eventually(lambda: rounds(gateway.process.pid))
        gateway.process.kill()
        gateway.process.wait()
        eventually(lambda: not alive(pid))


def test_two_servers_of_one_home_take_turns(serve: Any) -> None:
    first = serve(store=OFTEN)
    second = serve_again(serve, first, store=OFTEN)
    seen, most = set[int](), 0
    end = time.monotonic() + 60
    while len(seen) < 4 and time.monotonic() < end:
        here = rounds(first.process.pid) + rounds(second.process.pid)
        most = max(most, len([pid for pid in here if alive(pid)]))
        seen.update(here)
        time.sleep(0.02)
    assert len(seen) >= 4
    assert most == 1
    for gateway in (first, second):
        assert gateway.stop() == 0
        assert "failed" not in gateway.said()


def test_a_round_under_way_holds_no_shutdown_up(serve: Any) -> None:
    gateway = serve(store=OFTEN)
    [pid] = eventually(lambda: rounds(gateway.process.pid))
    began = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began < 30
    assert not alive(pid)
