"""Real stores in temporary folders, and records to put into them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from apprentice_pipeline.records import Exchange, Usage, new_pair_id
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.rows import record_rows
from apprentice_pipeline.store.state import State
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.vault import MemoryDataKeys, Vault

START_US = 1_760_000_000_000_000
_POSTGRES = Path("/usr/lib/postgresql")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace in a fresh home."""
    opened = Workspace.open(load_settings({"APPRENTICE_HOME": str(tmp_path / "home")}))
    yield opened
    opened.close()


@pytest.fixture
def vault() -> Vault:
    """A vault whose keys live in memory."""
    return Vault(bytes(range(32)), MemoryDataKeys())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake in a fresh folder."""
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def exchange() -> Callable[..., Exchange]:
    """Makes the n-th exchange of a stream, a minute apart; keywords replace its fields."""

    def make(number: int = 0, **changes: Any) -> Exchange:
        at_us = START_US + number * 60_000_000
        made = Exchange(
            pair_id=new_pair_id(at_us),
            tenant="acme",
            namespace="tickets",
            created_at_us=at_us,
            provider="openai",
            endpoint="chat.completions",
            model="gpt-4o",
            status=200,
            complete=True,
            streamed=False,
            served_by="remote",
            input={
                "messages": [{"role": "user", "content": f"question {number}"}],
                "parameters": {"temperature": 0},
            },
            output=f"answer {number}",
            latency_us=1_234,
            first_byte_us=None,
            usage=Usage(10, 2, None, None, "provider"),
            cost_usd=0.001,
        )
        return made._replace(**changes)

    return make


@pytest.fixture
def store(workspace: Workspace) -> Callable[..., None]:
    """Puts records straight into the lake of `workspace`."""

    def put(*records: Any, tenant: str = "acme") -> None:
        for table, rows in record_rows(workspace.vault, tenant, records).items():
            workspace.lake.append(tenant, table, rows)

    return put


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python program in a process of its own, with this code importable."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
        file = tmp_path / f"child-{len(list(tmp_path.glob('child-*')))}.py"
        file.write_text(textwrap.dedent(program), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, str(file), *map(str, arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        started.append(process)
        return process

    yield start
    for process in started:  # of a test that failed before it could end them
        process.kill()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A throw-away PostgreSQL server, of the newest one installed (`KINDS` asks for it)."""
    programs = sorted(_POSTGRES.glob("*/bin"))
    user = "postgres" if os.geteuid() == 0 else None

    def run(*command: object) -> None:
        done = subprocess.run(list(map(str, command)), user=user, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder, binaries = Path(name), programs[-1]
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        run(binaries / "initdb", "-D", data, "-A", "trust", "-U", "apprentice", "--no-sync")
        options = ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(
            list(map(str, [binaries / "postgres", *options])),
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"postgresql+psycopg://apprentice@/postgres?host={folder}"
        _wait_for(url)
        yield url
        server.send_signal(signal.SIGQUIT)
        server.wait(60)


def _wait_for(url: str) -> None:
    engine = create_engine(url)
    deadline = time.monotonic() + 60
    while True:
        try:
            engine.connect().close()
        except OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)
        else:
            engine.dispose()
            return


KINDS = ["sqlite", *(["postgresql"] if any(_POSTGRES.glob("*/bin")) else [])]
"""PostgreSQL too where it is installed: the tests need nothing but Python, git and make."""


@pytest.fixture(params=KINDS)
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty state database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    url: str = request.getfixturevalue("postgres_url")
    name = f"t_{os.urandom(6).hex()}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    engine.dispose()
    return f"{url}&options=-csearch_path%3D{name}"


@pytest.fixture
def state(state_url: str) -> Iterator[State]:
    """An empty state database, once of each kind."""
    opened = State.open(state_url)
    yield opened
    opened.close()
