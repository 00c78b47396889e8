"""A gateway process as a conformance case needs it: keyless or with keys, and what it recorded.

Belongs here: starting `apprentice serve`, its keys, reading its lake. Does not: comparing.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from apprentice_pipeline.records import DEFAULT_TENANT
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages.access import seal_provider_key
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.workspace import Workspace

PROVIDER_KEY = "sk-x"
"""What the clients give a provider, and what the gateway holds sealed."""
TENANT, NAMESPACE = "acme", "tickets"
CONFIG = """\
remote: {{endpoints: {{openai: "{url}", anthropic: "{url}", gemini: "{url}"}}}}
gateway: {{commit_timeout_ms: 30000}}
store: {{drain_interval_s: 3600}}
"""


@dataclass(frozen=True)
class Row:
    """One recorded exchange, opened."""

    facts: dict[str, Any]
    input: Any
    output: Any

    def __getattr__(self, name: str) -> Any:
        return self.facts[name]


class Recorded:
    """What a gateway process recorded for one tenant."""

    def __init__(self, workspace: Workspace, tenant: str) -> None:
        self._workspace = workspace
        self._tenant = tenant

    def since(self, known: set[str], expected: int, *, wait_s: float = 60.0) -> list[Row]:
        """The exchanges that are not `known`, oldest first: `expected` of them, each once."""
        end = time.monotonic() + wait_s
        while len(found := self._new(known)) < expected and time.monotonic() < end:
            time.sleep(0.05)
        assert len(found) == expected, "exchanges lost, or recorded twice"
        return [self._open(row) for row in found]

    def ids(self) -> set[str]:
        """The exchanges there are."""
        self._drain()
        frame = self._workspace.lake.scan(self._tenant, "captures").select("pair_id").collect()
        return set(frame["pair_id"])

    def _new(self, known: set[str]) -> list[dict[str, Any]]:
        import polars as pl

        self._drain()
        scan = self._workspace.lake.scan(self._tenant, "captures")
        frame = scan.filter(~pl.col("pair_id").is_in(list(known))).collect()
        return frame.sort("pair_id").to_dicts()

    def _drain(self) -> None:
        report = drain(self._workspace.home.spool, self._workspace.lake)
        assert (report.failed, report.rejected, report.damaged) == (0, 0, 0), report.error

    def _open(self, row: dict[str, Any]) -> Row:
        opened = {}
        for name in ("input", "output"):
            opened[name] = None
            if row[name] is not None:
                place = {key: row[key] for key in ("namespace", "pair_id")}
                plain = self._workspace.vault.open(
                    row[name], tenant=self._tenant, field=name, **place
                )
                opened[name] = orjson.loads(plain)
        facts = {name: value for name, value in row.items() if name not in opened}
        return Row(facts, **opened)


@dataclass(frozen=True)
class Served:
    """A running gateway. `key`: a capture key for it, "" where it is keyless; `tenant_key`: one
    of the same tenant."""

    port: int
    recorded: Recorded
    key: str = ""
    tenant_key: str = ""


@contextlib.contextmanager
def serving(folder: Path, url: str, *, keyed: bool = False) -> Iterator[Served]:
    """A gateway before the provider at `url`, as `apprentice serve` starts it.

    `keyed`: it has a capture key, and the provider keys of that key's tenant are sealed in it.
    """
    config = folder / "apprentice.yaml"
    config.write_text(CONFIG.format(url=url))
    ours = {"APPRENTICE_HOME": str(folder / "home"), "APPRENTICE_CONFIG": str(config)}
    environment = {**os.environ, **ours}
    settings = load_settings({**environment, "CLIENTS_KEY": PROVIDER_KEY})
    with contextlib.closing(Workspace.open(settings)) as workspace:
        keys = _with_keys(workspace) if keyed else ("", "")
        recorded = Recorded(workspace, TENANT if keyed else DEFAULT_TENANT)
        command = [sys.executable, "-m", "apprentice_pipeline.cli", "serve", "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
            try:
                yield Served(_port(process), recorded, *keys)
            finally:
                process.terminate()


def _with_keys(workspace: Workspace) -> tuple[str, str]:
    """Seals a tenant's provider keys; a capture key and a tenant key of that tenant."""
    for provider in ("openai", "anthropic", "gemini"):
        seal_provider_key(workspace, TENANT, provider, "CLIENTS_KEY")
    make = partial(workspace.state.create_key, tenant=TENANT, now_us=1)
    capture = make(namespace=NAMESPACE, role="capture")
    return capture.key, make(namespace=None, role="tenant").key


def _port(process: subprocess.Popen[bytes]) -> int:
    """The port that a starting gateway announces."""
    assert process.stderr is not None
    said = b""
    while (found := re.search(rb"http://127\.0\.0\.1:(\d+)", said)) is None:
        line = process.stderr.readline()
        assert line, f"the gateway did not start: {said.decode()}"
        said += line
    return int(found.group(1))
