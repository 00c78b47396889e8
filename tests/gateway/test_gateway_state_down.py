"""A worker that starts while its state database is out of reach: it waits, and lets nobody in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from apprentice_pipeline.records import now_us
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.state import State
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
PROGRAMS = Path("/usr/lib/postgresql")


class Postgres:
    """A server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.url = f"postgresql+psycopg://apprentice@/postgres?host={folder}"
        self._folder = folder
        self._binaries = sorted(PROGRAMS.glob("*/bin"))[-1]
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        options = ["-A", "trust", "-U", "apprentice", "--no-sync"]
        made = [self._binaries / "initdb", "-D", folder / "data", *options]
        subprocess.run(list(map(str, made)), user=self._user, check=True, capture_output=True)
        self.answer()

    def answer(self) -> None:
        """Starts it."""
        options = ["-k", self._folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        command = [self._binaries / "postgres", "-D", self._folder / "data", *options]
        self._server = subprocess.Popen(
            list(map(str, command)),
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._is_up)

    def silence(self) -> None:
        """Stops it."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(60)

    def close(self) -> None:
        """Stops it for good."""
        self.silence()

    def _is_up(self) -> bool:
        engine = create_engine(self.url)
        try:
            engine.connect().close()
        except OperationalError:
            return False
        finally:
            engine.dispose()
        return True


class Sqlite:
    """A file that can be put out of reach."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "state"
        self._folder.mkdir()
        self.url = f"sqlite:///{self._folder / 'state.db'}"

    def silence(self) -> None:
        """Moves it away, with its log: at once, for a file that is found without is made anew."""
        self._folder.rename(self._folder.with_suffix(".away"))

    def answer(self) -> None:
        """Moves it back."""
        self._folder.with_suffix(".away").rename(self._folder)

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture(params=["sqlite", *(["postgresql"] if any(PROGRAMS.glob("*/bin")) else [])])
def database(request: pytest.FixtureRequest) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="db-", ignore_cleanup_errors=True) as name:
        made = (Sqlite if request.param == "sqlite" else Postgres)(Path(name))
        yield made
        made.close()


def restart_worker(gateway: Any) -> None:
    """Kills the one worker; returns once its successor has said that it waits."""
    [worker] = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: "until then calls are refused with 503" in gateway.said())


def test_without_keys_calls_are_refused_until_the_database_answers(
    serve: Any, ask: Any, provider: Any, database: Any
) -> None:
    gateway = serve(store={"state_url": database.url})
    first = ask(gateway.capture(), CHAT, ASK)
    assert first.status == 200
    database.silence()
    restart_worker(gateway)
    provider.seen.clear()
    for name, kind in (("openai", "server_error"), ("anthropic", "api_error")):
        refused = ask(gateway.capture(name), "/v1/messages" if name == "anthropic" else CHAT, ASK)
        assert refused.status == 503
        assert refused.header("retry-after") == "1"
        assert refused.json()["error"]["type"] == kind
        assert "state database" in refused.json()["error"]["message"]
    assert ask(gateway.url, "/healthz").status == 200
    assert ask(gateway.url, "/readyz").status == 503
    assert ask(gateway.url, "/metrics").status == 503
    assert provider.seen == []
    database.answer()
    eventually(lambda: ask(gateway.url, "/readyz").status == 200)
    answer = ask(gateway.capture(), CHAT, ASK)
    assert answer.status == 200
    with closing(State.open(database.url)) as state:
        eventually(lambda: state.counters("").get("refused_unready", 0) >= 4)
        eventually(lambda: "state_unreachable" in [each.kind for each in state.alerts()])
    assert "the state database answers" in gateway.said()
    assert gateway.stop() == 0
    kept = Lake(str(gateway.home / "lake")).scan("default", "captures").collect()["pair_id"]
    delivered = [each.header("x-apprentice-pair-id") for each in (first, answer)]
    assert sorted(kept) == sorted(map(str, delivered))


def test_with_keys_neither_a_good_nor_an_unknown_one_gets_in_meanwhile(
    serve: Any, ask: Any, provider: Any, database: Any
) -> None:
    gateway = serve(store={"state_url": database.url})
    with closing(State.open(database.url)) as state:
        made = state.create_key(tenant="acme", namespace=None, role="tenant", now_us=now_us())
    good, unknown = ({"x-apprentice-key": key} for key in (made.key, "ak_unknown" * 4))
    eventually(lambda: ask(gateway.capture(), CHAT, ASK, unknown).status == 401)
    database.silence()
    restart_worker(gateway)
    provider.seen.clear()
    assert {ask(gateway.capture(), CHAT, ASK, key).status for key in (good, unknown, {})} == {503}
    assert provider.seen == []
    database.answer()
    eventually(lambda: ask(gateway.capture(), CHAT, ASK, good).status == 200)
    assert ask(gateway.capture(), CHAT, ASK, unknown).status == 401
    assert ask(gateway.capture(), CHAT, ASK).status == 401


def test_a_waiting_worker_can_be_stopped(serve: Any, ask: Any, database: Any) -> None:
    gateway = serve(store={"state_url": database.url})
    database.silence()
    restart_worker(gateway)
    assert ask(gateway.capture(), CHAT, ASK).status == 503
    assert gateway.stop() == 0
