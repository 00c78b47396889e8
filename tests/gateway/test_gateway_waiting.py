"""A worker that could not open what it needs goes on trying, whatever it was that failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.gateway.app import GatewayApp
from apprentice_pipeline.gateway.waiting import WaitingApp
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
WHY = StoreError("the state database failed")


@dataclass
class Parts:
    """What is opened; counts how often it is closed."""

    app: GatewayApp
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


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


def test_what_opened_and_did_not_start_is_closed_and_opened_again(start: Any, ask: Any) -> None:
    faults: list[Exception] = [StoreError("it went away again")]
    made: list[Parts] = []

    def router(*_: Any) -> None:
        if faults:
            raise faults.pop()

    def around(app: GatewayApp) -> WaitingApp:
        def opened() -> Parts:
            made.append(Parts(app))
            return made[-1]

        return WaitingApp(opened, WHY)

    gateway = start(around=around, make_router=router)
    eventually(lambda: ask(gateway.url, "/readyz").status == 200)
    assert [parts.closed for parts in made] == [1, 0]
