"""Two nodes drain the same spools into one lake that is compacted meanwhile; all are killed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from apprentice_pipeline.records import Exchange
from apprentice_pipeline.store.drain import drain, waiting_rows
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.vault import Vault

KILLED_DRAINS = """
import os, random, signal, sys, time
from pathlib import Path
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.lake import Lake
import deltalake, pyarrow

folder, dice = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
lake = lambda: Lake(str(folder / "lake"))

def work(what):
    child = os.fork()
    if child:
        return child
    try:
        what()
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__} {error}\\n")
        os._exit(1)

def drain_all():
    report = drain(folder / "spool", lake(), max_rows=3)
    if report.failed:
        raise RuntimeError(report.error)

def compact():
    lake().compact("acme")
    lake().vacuum("acme")

killed = failed = 0
for turn in range(int(sys.argv[3])):
    children = [work(drain_all), work(drain_all), work(compact)]
    time.sleep(dice.uniform(0.01, 0.25))
    for child in children:
        os.kill(child, signal.SIGKILL) if dice.random() < 0.7 else None
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
        failed += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
print(killed, failed)
"""


def test_two_nodes_killed_at_random_instants_move_each_row_once(
    tmp_path: Path,
    vault: Vault,
    exchange: Callable[..., Exchange],
    child: Callable[..., subprocess.Popen[str]],
) -> None:
    """Also between the steps that `drain` names: while Delta writes, commits or is flushed."""
    ids, folder = [], tmp_path / "spool"
    for start in range(0, 160, 40):
        spool = Spool.open(folder, vault)
        records = [exchange(number) for number in range(start, start + 40)]
        assert all(spool.put(each, tenant="acme").exception() is None for each in records)
        spool.close()
        ids += [each.pair_id for each in records]
    output, errors = child(KILLED_DRAINS, tmp_path, 7, 10).communicate(timeout=120)
    killed, failed = map(int, output.split())
    assert killed >= 3  # on a quick machine some are done before their turn
    assert failed == 0, errors
    lake = Lake(str(tmp_path / "lake"))
    assert drain(folder, lake).failed == 0
    assert waiting_rows(folder) == 0
    assert list(folder.iterdir()) == []
    rows = lake.scan("acme", "captures").collect()["pair_id"].to_list()
    assert sorted(rows) == sorted(ids)
    lake.compact("acme")
    lake.vacuum("acme", 0)
    assert sorted(lake.scan("acme", "captures").collect()["pair_id"]) == sorted(ids)
