"""A worker that could not open what it needs goes on trying, whatever it was that failed."""

from __future__ import annotations

import gc
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.gateway.app import GatewayApp, create_app
from apprentice_pipeline.gateway.waiting import WaitingApp
from apprentice_pipeline.store.loss_files import make_folder
from apprentice_pipeline.store.spool import Spool
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
WHY = StoreError("the state database failed")


@dataclass
class Parts:
    """What is opened; counts how often it is closed."""

    app: GatewayApp
    closed: int = 0
    fault: Exception | None = None

    def close(self) -> None:
        self.closed += 1
        if self.fault is not None:
            raise self.fault


def test_opening_is_tried_again_whatever_failed(start: Any, ask: Any, provider: Any) -> None:
    faults = [OSError("gone"), KeyError("half of a database")]

    def around(app: GatewayApp) -> WaitingApp:
        def opened() -> Parts:
            if faults:
                raise faults.pop()
            return Parts(app)

        return WaitingApp(opened, WHY)

    gateway = start(around=around)
    refused = ask(gateway.capture(), CHAT, ASK)
    assert (refused.status, refused.header("retry-after")) == (503, "1")
    assert provider.seen == []
    eventually(lambda: ask(gateway.capture(), CHAT, ASK).status == 200)
    assert faults == []


@pytest.mark.parametrize("fault", [None, OSError("the disk fails")])
def test_what_opened_and_did_not_start_is_closed_and_opened_again(
    start: Any, ask: Any, fault: Exception | None
) -> None:
    faults: list[Exception] = [StoreError("it went away again")]
    made: list[Parts] = []

    def router(*_: Any) -> None:
        if faults:
            raise faults.pop()

    def around(app: GatewayApp) -> WaitingApp:
        def opened() -> Parts:
            made.append(Parts(app, fault=fault))
            return made[-1]

        return WaitingApp(opened, WHY)

    gateway = start(around=around, make_router=router)
    eventually(lambda: ask(gateway.url, "/readyz").status == 200)
    assert [parts.closed for parts in made] == [1, 0]


def test_an_application_that_never_started_lets_go_of_what_it_was_made_with(
    home: Any,
) -> None:
    home.configure("gateway: {access_log: json}")
    with home.open() as workspace:
        make_folder(workspace.home.losses)
        spool = Spool.open(workspace.home.spool, workspace.vault)
        for _ in range(2):  # the first loads what is loaded once
            before = _held()
            for _ in range(5):
                create_app(workspace, spool).close()
            gc.collect()
            after = _held()
        spool.close()
        assert after[0] <= before[0]
        assert after[1] <= before[1]  # fewer: an earlier test's may have ended meanwhile
        assert list(workspace.home.losses.iterdir()) == []
        shutil.rmtree(workspace.home.losses.resolve())


def _held() -> tuple[int, int]:
    """Open files and threads of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
