"""Exports by the command and over HTTP, while other processes drain, compact, vacuum and erase."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.workspace import Workspace
from bench.export.making import NAMESPACE, TENANT, sealed_pairs

PAIRS, DAYS = 6_000, 3
"""Enough for an export to read its content in several batches."""
ROUNDS, MOST_ROUNDS = 2, 20
ENOUGH = {"drained": 5, "compacted": 5, "erased": 5}
"""What has to go on beside the exports, at least."""
OFTEN = {"maintenance_interval_s": 1.0}
FORMS = ("jsonl", "parquet")
ROOT = Path(__file__).parents[2]

COMMON = """
import json, os, sys, time
from pathlib import Path
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.workspace import Workspace

home, tenant, namespace, log, stop, pause = sys.argv[1:7]
workspace = Workspace.open(load_settings({"APPRENTICE_HOME": home}))
out = open(log, "ab", buffering=0)

def tell(kind, value):
    out.write(json.dumps([kind, value]).encode() + b"\\n")

def going():
    return not os.path.exists(stop)
"""
DRAINING = """
from apprentice_pipeline.records import Exchange, Usage, new_pair_id, now_us
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.spool import Spool

def made():
    at_us = now_us()
    return Exchange(
        new_pair_id(at_us), tenant, namespace, at_us, "openai", "chat.completions", "m", 200,
        True, False, "remote", {"messages": [{"role": "user", "content": "?"}]}, "yes", 1, None,
        Usage(), None,
    )

spool = Spool.open(workspace.home.spool, workspace.vault)
while going():
    new = [made() for _ in range(20)]
    for future in [spool.put(each, tenant=tenant) for each in new]:
        assert future.exception() is None
    drain(workspace.home.spool, workspace.lake, erased_of=workspace.state.erased_of)
    if waiting_rows(workspace.home.spool) == 0:
        tell("drained", [each.pair_id for each in new])
spool.close()
"""
COMPACTING = """
from apprentice_pipeline.stages import maintenance

while going():
    maintenance.compact(workspace)
    tell("compacted", 1)
"""
ERASING = """
from apprentice_pipeline.stages import erasure

for pair_id in json.loads(sys.stdin.read()):
    while going() and os.path.exists(pause):
        tell("resting", 1)
        time.sleep(0.05)
    if not going():
        break
    tell("erasing", pair_id)
    done = erasure.erase(workspace, tenant, namespace, pair_id)
    assert done.pairs == 1
    tell("erased", pair_id)
    tell("deleted", done.exports.deleted)
"""
PROGRAMS = {"draining": DRAINING, "compacting": COMPACTING, "erasing": ERASING}


@dataclass(frozen=True)
class Others:
    """What the other processes told of themselves: each line was written before the deed, or after
    it, and is there for whoever looks then."""

    file: Path
    pause: Path

    def told(self, kind: str) -> list[Any]:
        """All of one kind, by now."""
        lines = map(json.loads, self.file.read_bytes().splitlines())
        return [value for of, value in lines if of == kind]

    def ids(self, kind: str) -> set[str]:
        """What was told of one kind, where each line tells of several."""
        return {each for several in self.told(kind) for each in several}

    def done(self) -> Counter[str]:
        """How often each kind was told of."""
        return Counter({kind: len(self.told(kind)) for kind in ENOUGH})

    @contextmanager
    def erasing_nothing(self) -> Iterator[None]:
        """No erasure is under way in the block."""
        rested, end = len(self.told("resting")), time.monotonic() + 60
        self.pause.touch()
        while len(self.told("resting")) == rested:
            assert time.monotonic() < end
            time.sleep(0.02)
        try:
            yield
        finally:
            self.pause.unlink()


@contextmanager
def others_at_work(home: Path, folder: Path, erase: list[str]) -> Iterator[Others]:
    """Three processes beside the block, which go on until its end, and must end well."""
    log, stop, pause = folder / "log", folder / "stop", folder / "pause"
    log.touch()
    (folder / "erase.json").write_text(json.dumps(erase))
    processes = {}
    for name, program in PROGRAMS.items():
        file = folder / f"{name}.py"
        file.write_text(COMMON + program)
        with open(folder / "erase.json") as given:
            processes[name] = subprocess.Popen(
                [sys.executable, str(file), home, TENANT, NAMESPACE, log, stop, pause],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
    try:
        yield Others(log, pause)
    finally:
        stop.touch()
        said = {name: process.communicate(timeout=120)[1] for name, process in processes.items()}
    for name, process in processes.items():
        assert process.returncode == 0, f"{name}: {said[name]}"


def by_command(home: Path, form: str, out: Path) -> bytes | None:
    """What the command wrote; None where an erasure took the file, finished or not."""
    command = [sys.executable, "-m", "apprentice_pipeline.cli", "labels", "--namespace", NAMESPACE]
    more = ["--format", form, "--out", str(out)] if form == "parquet" else []
    environment = os.environ | {"APPRENTICE_HOME": str(home)}
    done = subprocess.run([*command, *more], capture_output=True, env=environment)
    said = done.stderr.decode()
    if more and done.returncode == 1 and "erased while it was exported" in said:
        assert "run it again" in said
        return None
    assert done.returncode == 0, said
    if not more:
        return done.stdout
    try:
        return out.read_bytes()
    except FileNotFoundError:
        return None


def over_http(url: str, form: str) -> bytes:
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=120)
    with closing(connection):
        asked = f"namespace={NAMESPACE}&format={form}"
        connection.request("GET", f"/v1/labels/synthesize-corpus?{asked}")
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body


def ids_of(form: str, exported: bytes) -> list[str]:
    """The pairs of an export, whose rows must all be readable and whole."""
    if form == "jsonl":
        rows = [json.loads(line) for line in exported.splitlines()]
    else:
        rows = pl.read_parquet(io.BytesIO(exported)).to_dicts()
    assert all(row["input"] and row["output"] for row in rows)
    return [row["pair_id"] for row in rows]


def export_beside(
    others: Others, seeded: set[str], form: str, export: Callable[[], bytes | None]
) -> bool:
    """Holds an export against what the others had done before and did meanwhile; False where an
    erasure took it."""
    drained, erased = others.ids("drained"), set(others.told("erased"))
    exported = export()
    erasing = set(others.told("erasing"))
    if exported is None:
        assert erasing - erased
        return False
    found = ids_of(form, exported)
    assert len(found) == len(set(found))
    assert not erased & set(found)
    assert not (seeded | drained) - erasing - set(found)
    return True


def test_every_export_is_whole_while_others_drain_compact_and_erase(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """The server drains and compacts too. Each erasure removes at once the files that compactions
    and other erasures had put others in the place of, which a running export has yet to read, and
    every file that was exported."""
    server = serve(store=OFTEN)
    sealed_pairs(server.home, PAIRS, DAYS, lambda _made: None)
    with closing(Workspace.open(load_settings({"APPRENTICE_HOME": str(server.home)}))) as opened:
        seeded = opened.lake.scan(TENANT, "captures").collect()["pair_id"].to_list()
    ways: list[tuple[str, Callable[[], bytes | None]]] = [
        *((form, partial(by_command, server.home, form, tmp_path / "out")) for form in FORMS),
        *((form, partial(over_http, server.url, form)) for form in FORMS),
    ]
    rounds = 0
    with others_at_work(server.home, tmp_path, seeded[::4]) as others:
        while rounds < ROUNDS or not others.done() >= Counter(ENOUGH):
            rounds += 1
            assert rounds < MOST_ROUNDS, others.done()
            for form, export in ways:
                if not export_beside(others, set(seeded), form, export):
                    with others.erasing_nothing():
                        assert export_beside(others, set(seeded), form, export)
