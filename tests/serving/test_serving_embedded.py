"""The embedded server as a real process, asked through its real client."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import DeadlineMissed, Overloaded, ServingError
from apprentice_pipeline.serving.backend import LocalRequest
from apprentice_pipeline.serving.embedded import EmbeddedBackend, EmbeddedSupervisor
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

OpenWorkspace = Callable[..., Workspace]


def ask(champion: ChampionRecord, text: str = "hello", **changes: Any) -> LocalRequest:
    return LocalRequest(
        tenant=changes.get("tenant", champion.tenant),
        namespace=champion.namespace,
        version=champion.version,
        conversation=[{"role": "user", "content": text}],
        max_new_tokens=changes.get("max_new_tokens", 8),
        deadline_ms=changes.get("deadline_ms", 20_000),
        background=changes.get("background", False),
    )


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def wait_until_it_runs(supervisor: EmbeddedSupervisor) -> None:
    give_up = time.monotonic() + 30
    while supervisor.pid is None:
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.fixture(scope="module")
def workspace(open_workspace: OpenWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("home"), queue_size=8, max_adapters=2)


@pytest.fixture
def standby(workspace: Workspace) -> EmbeddedSupervisor:
    return EmbeddedSupervisor(workspace)


@pytest.fixture(scope="module")
def supervisor(workspace: Workspace) -> Iterator[EmbeddedSupervisor]:
    """One running server with a queue of 8. The last tests of this file kill and replace it."""
    supervisor = EmbeddedSupervisor(workspace)
    assert supervisor.ensure(timeout_s=120), supervisor.fault
    yield supervisor
    supervisor.stop()


@pytest.fixture
async def backend(supervisor: EmbeddedSupervisor) -> Any:
    backend = EmbeddedBackend(supervisor.socket)
    yield backend
    await backend.close()


async def test_a_champion_loads_in_the_background_and_then_answers(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champion = factory.champion("first")
    assert not await backend.ready(champion)
    assert await backend.ready(champion, wait_s=30)
    answer = await backend.answer(ask(champion))
    assert answer.output_tokens > 0
    assert 0.0 <= answer.confidence <= 1.0
    assert answer.latency_us > 0


async def test_an_answer_does_not_depend_on_what_shares_its_batch(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champion = factory.champion("batched")
    assert await backend.ready(champion, wait_s=30)
    alone = await backend.answer(ask(champion, "one"))
    texts = ["one", "two words", "three", "four of them", "five", "six"]
    together = await asyncio.gather(*(backend.answer(ask(champion, text)) for text in texts))
    assert together[0].text == alone.text
    assert together[0].confidence == pytest.approx(alone.confidence, rel=1e-3)
    facts = await backend.facts()
    assert facts["batches"] < facts["answers"]


async def test_what_is_not_loaded_is_refused_not_guessed(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champion = factory.champion("only-here")
    assert await backend.ready(champion, wait_s=30)
    with pytest.raises(ServingError, match="not loaded"):
        await backend.answer(ask(champion, tenant="somebody-else"))


async def test_an_artifact_for_another_tenant_is_refused(
    backend: EmbeddedBackend, factory: Any
) -> None:
    theirs = factory.champion("shared-name", tenant="theirs")
    ours = ChampionRecord("ours", "shared-name", 1, theirs.digest, theirs.path, {}, 0)
    assert not await backend.ready(ours, wait_s=30)
    assert "is for theirs.shared-name" in (backend.refusal(ours) or "")


async def test_a_digest_other_than_the_record_s_is_refused(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champion = factory.champion("digest")
    other = ChampionRecord("default", "digest", 1, "0" * 64, champion.path, {}, 0)
    assert not await backend.ready(other, wait_s=30)
    assert "champion record says 000000000000" in (backend.refusal(other) or "")


async def test_an_artifact_for_another_base_is_refused(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champion = factory.champion("other-base", base_digest="ab" * 32)
    assert not await backend.ready(champion, wait_s=30)
    assert "another base" in (backend.refusal(champion) or "")


async def test_an_artifact_signed_by_another_key_is_refused(
    backend: EmbeddedBackend, factory: Any, tmp_path: Path
) -> None:
    from apprentice_pipeline.artifact.kolm import load_or_create_signer

    champion = factory.champion("forged", signer=load_or_create_signer(tmp_path))
    assert not await backend.ready(champion, wait_s=30)
    assert backend.refusal(champion)


async def test_a_changed_artifact_is_refused(backend: EmbeddedBackend, factory: Any) -> None:
    champion = factory.champion("changed")
    flip_a_bit(Path(champion.path))
    assert not await backend.ready(champion, wait_s=30)
    assert backend.refusal(champion)


async def test_the_least_recently_used_adapter_leaves_the_shelf(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champions = [factory.champion(f"shelf-{n}") for n in range(3)]
    for champion in champions:
        assert await backend.ready(champion, wait_s=30)
    assert (await backend.facts())["adapters"] == 2
    with pytest.raises(ServingError, match="not loaded"):
        await backend.answer(ask(champions[0]))
    assert await backend.ready(champions[0], wait_s=30), "asking again loads it again"


async def test_a_full_queue_says_so_at_once(backend: EmbeddedBackend, factory: Any) -> None:
    champion = factory.champion("crowded")
    assert await backend.ready(champion, wait_s=30)
    started = time.monotonic()
    replies = await asyncio.gather(
        *(backend.answer(ask(champion, max_new_tokens=64 + n)) for n in range(40)),
        return_exceptions=True,
    )
    refused = [reply for reply in replies if isinstance(reply, Overloaded)]
    assert len(refused) >= 30
    assert not [r for r in replies if isinstance(r, Exception) and not isinstance(r, Overloaded)]
    assert time.monotonic() - started < 20


async def test_what_expired_in_the_queue_is_never_generated(
    backend: EmbeddedBackend, factory: Any
) -> None:
    champion = factory.champion("late")
    assert await backend.ready(champion, wait_s=30)
    before = (await backend.facts()).get("expired", 0)
    for _ in range(10):  # a busy machine may hand the late one over before the slow ones
        slow = [
            asyncio.create_task(backend.answer(ask(champion, max_new_tokens=120 + n)))
            for n in range(3)
        ]
        await asyncio.sleep(0.05)
        with suppress(DeadlineMissed):
            await backend.answer(ask(champion, deadline_ms=1))
        await asyncio.gather(*slow)
        if (await backend.facts()).get("expired", 0) > before:
            return
    pytest.fail("nothing expired in the queue")


async def test_nothing_unpacked_is_left_on_the_disk(
    backend: EmbeddedBackend, factory: Any, supervisor: EmbeddedSupervisor
) -> None:
    assert await backend.ready(factory.champion("traceless"), wait_s=30)
    run = supervisor.socket.parent
    assert list((run / "embedded").iterdir()) == []
    assert (run / "embedded.log").read_text() == ""
    assert supervisor.socket.stat().st_mode & 0o077 == 0


async def test_its_memory_stays_flat(
    backend: EmbeddedBackend, factory: Any, supervisor: EmbeddedSupervisor
) -> None:
    champion = factory.champion("flat")
    assert await backend.ready(champion, wait_s=30)

    async def burst(rounds: int) -> int:
        for number in range(rounds):
            texts = [f"request {number} " + "x" * (number * 7 % 150 + k) for k in range(6)]
            await asyncio.gather(*(backend.answer(ask(champion, text)) for text in texts))
        assert supervisor.pid is not None
        return resident_kb(supervisor.pid)

    warm = await burst(40)
    later = await burst(120)
    assert later - warm < 30_000, "kilobytes over 720 requests"


async def test_a_killed_server_fails_what_was_under_way_and_comes_back(
    backend: EmbeddedBackend, supervisor: EmbeddedSupervisor, factory: Any
) -> None:
    champion = factory.champion("killed")
    assert await backend.ready(champion, wait_s=30)
    under_way = asyncio.create_task(backend.answer(ask(champion, max_new_tokens=450)))
    await asyncio.sleep(0.02)
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ServingError, match="not running"):
        await under_way
    started = time.monotonic()
    assert not await backend.ready(champion)
    assert time.monotonic() - started < 0.5, "a server that is down is known at once"
    assert await backend.ready(champion, wait_s=120)
    assert (await backend.answer(ask(champion))).output_tokens > 0
    assert supervisor.pid != first
    assert supervisor.starts == 2


async def test_one_home_has_one_server_and_a_standby_takes_over(
    backend: EmbeddedBackend,
    supervisor: EmbeddedSupervisor,
    standby: EmbeddedSupervisor,
    factory: Any,
) -> None:
    champion = factory.champion("handed-over")
    try:
        assert await asyncio.to_thread(standby.ensure, 120)
        assert supervisor.pid is not None
        assert standby.pid is None
        await asyncio.to_thread(supervisor.stop)
        await asyncio.to_thread(wait_until_it_runs, standby)
        assert await backend.ready(champion, wait_s=120)
    finally:
        await asyncio.to_thread(standby.stop)
    assert not standby.listening()
