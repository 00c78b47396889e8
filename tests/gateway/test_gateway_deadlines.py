"""How long a response waits for its commit: no longer than its limit, and not in vain."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from apprentice_pipeline.gateway.recording import Deadlines


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


def test_a_loop_that_stood_still_reads_what_came_before_it_gives_up(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ours, theirs = socket.socketpair()

    def come(waiter: asyncio.Future[None]) -> None:
        ours.recv(1)
        waiter.set_result(None)

    def stand_still() -> None:
        theirs.send(b"!")
        time.sleep(0.2)

    async def wait() -> bool:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        loop.add_reader(ours, come, waiter)
        waiting = asyncio.create_task(Deadlines(0.05).wait(waiter))
        await asyncio.sleep(0)  # now it waits
        stand_still()
        came = await waiting
        loop.remove_reader(ours)
        return came

    with ours, theirs, asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(wait())


def test_what_does_not_come_is_given_up_and_its_outcome_still_comes(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def give_up() -> list[bool]:
        waiters = [asyncio.get_running_loop().create_future() for _ in range(3)]
        deadlines = Deadlines(0.02)
        waiting = [asyncio.create_task(deadlines.wait(waiter)) for waiter in waiters]
        await asyncio.sleep(0)
        waiters[1].set_result(None)
        found = await asyncio.gather(*waiting)
        assert not waiters[0].done()
        return found

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(give_up()) == [False, True, False]
