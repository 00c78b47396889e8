"""A worker's writer process dies under traffic: calls go on, and there is another one."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from apprentice_pipeline.gateway.worker import _Parts
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.sealing import PlainRow
from apprentice_pipeline.store.unread import UNREAD
from apprentice_pipeline.store.workspace import Workspace
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}


def writers(gateway: Any) -> list[int]:
    """The process ids of the workers' writers, from the kernel."""
    found = []
    for worker in gateway.workers():
        for task in Path(f"/proc/{worker}/task").glob("*/children"):
            for pid in task.read_text().split():
                try:
                    line = Path(f"/proc/{pid}/cmdline").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                found += [int(pid)] if "gateway.writer" in line else []
    return found


def test_writers_killed_again_and_again_lose_and_double_nothing_and_come_back(
    serve: Any, ask: Any
) -> None:
    gateway = serve("--workers", "2", gateway={"commit_timeout_ms": 5_000})
    delivered, failed, stopping = list[str](), list[str](), threading.Event()

    def calls() -> None:
        while not stopping.is_set():
            try:
                answer = ask(gateway.capture(), CHAT, ASK)
            except (OSError, http.client.HTTPException) as error:
                failed.append(type(error).__name__)
                continue
            if answer.status != 200:
                failed.append(str(answer.status))
            delivered.append(answer.header("x-apprentice-pair-id"))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    with closing(Workspace.open(load_settings({"APPRENTICE_HOME": str(gateway.home)}))) as home:

        def started() -> float:
            return home.state.counters("").get("spool_writers_started", 0)

        for turn in range(3):
            goal = len(delivered) + 30
            eventually(lambda goal=goal: len(delivered) > goal)
            pair = writers(gateway)
            assert len(pair) == 2
            for pid in pair:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda turn=turn: started() == 2 * turn + 2)
        assert len(writers(gateway)) == 2
        stopping.set()
        for thread in threads:
            thread.join()
        text = ask(gateway.url, "/metrics").body.decode()
        assert 'apprentice_events_total{event="spool_writers_lost"} 6.0' in text
        assert 'apprentice_events_total{event="spool_writers_started"} 6.0' in text
        assert [each.kind for each in home.state.alerts()] == ["spool_writer_lost"]
        assert gateway.stop() == 0
        rows = home.lake.scan("default", "captures").collect()["pair_id"].to_list()
        assert home.state.counters("default").get("at_risk", 0) == 0
    assert failed == []
    assert sorted(rows) == sorted(delivered)
    assert gateway.said().count("its spool writer died") == 6


def test_what_its_writer_tells_last_a_worker_still_counts(workspace: Workspace) -> None:
    """These calls cannot be read, which is found out after they were acknowledged."""
    parts = _Parts.open(workspace.settings)
    rows = [PlainRow(UNREAD, "acme", "tickets", f"p{at}", b"{}", b"?", b"!") for at in range(300)]

    async def put() -> None:
        await asyncio.gather(*(cast(Any, parts.spool.put_row(row)) for row in rows))

    asyncio.run(put())
    parts.close()
    assert workspace.state.counters("acme", "tickets") == {"lost": 300, "at_risk": 300}
