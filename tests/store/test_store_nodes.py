"""Two nodes, each with a home and spools of its own, drain into one lake at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store.drain import waiting_rows
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.vault import Vault

NODE = """
import sys
from pathlib import Path
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.lake import Lake
import deltalake, pyarrow

lake = Lake(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "compact":
        lake.compact("acme")
        lake.vacuum("acme")
        print(0, 0, flush=True)
        continue
    report = drain(Path(sys.argv[1]), lake, max_rows=int(line))
    print(report.rows, report.failed, report.error, flush=True)
"""


class Node:
    """A process that drains one home's spools when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self.said() == "ready"

    def tell(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def start(tmp_path: Path, child: Callable[..., subprocess.Popen[str]]) -> Callable[[str], Node]:
    return lambda name: Node(child(NODE, tmp_path / name, tmp_path / "lake", stdin=subprocess.PIPE))


@pytest.mark.parametrize("attempt", range(3))
def test_two_nodes_drain_into_one_lake_at_once_each_row_exactly_once(
    tmp_path: Path,
    vault: Vault,
    exchange: Callable[..., Exchange],
    start: Callable[[str], Node],
    attempt: int,
) -> None:
    """The first append makes the table, for both at the same moment; later ones meet a
    compaction by a third node."""
    made = 0
    ids: list[str] = []

    def fill(name: str, count: int) -> None:
        nonlocal made
        spool = Spool.open(tmp_path / name, vault)
        records = [exchange(made + number, tenant="acme") for number in range(count)]
        made += count
        for each in [spool.put(record, tenant="acme") for record in records]:
            assert each.exception() is None
        spool.close()
        ids.extend(record.pair_id for record in records)

    nodes, other = [start("one"), start("two")], start("three")
    for turn in range(6):
        fill("one", 20)
        fill("two", 20)
        for node in nodes:
            node.tell(20 if turn == 0 else 4)
        if turn:
            other.tell("compact")
        assert [node.said().split()[:2] for node in nodes] == [["20", "0"]] * 2, (attempt, turn)
        if turn:
            assert other.said() == "0 0"
    for node in [*nodes, other]:
        node.stop()
    lake = Lake(str(tmp_path / "lake"))
    assert sorted(lake.scan("acme", "captures").collect()["pair_id"]) == sorted(ids)
    assert waiting_rows(tmp_path / "one") == waiting_rows(tmp_path / "two") == 0
    assert lake.tenants() == ["acme"]
