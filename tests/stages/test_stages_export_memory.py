"""An export's memory is a batch's, not the corpus's: measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.export.making import NAMESPACE, sealed_pairs

ROWS = 50_000
"""80 MB of text, half as much again as objects: to hold it would show."""
FEW = 10_000
MORE_MB = 80.0
PROGRAM = f"""\
import re, sys
from pathlib import Path
from apprentice_pipeline.cli.main import main
form, limit, out = sys.argv[1:]
status = main(["labels", "--namespace", "{NAMESPACE}", "--format", form, "--limit", limit,
               "--out", out])
kept = re.search("VmHWM:\\\\s+([0-9]+) kB", Path("/proc/self/status").read_text())
print(int(kept[1]) * 1024 / 1e6, file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def big_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("export-memory") / "home"
    sealed_pairs(home, ROWS, 5, lambda _made: None)
    return home


def peak_mb(home: Path, form: str, rows: int, out: Path) -> float:
    """From /proc: `ru_maxrss` of a child begins with what its parent had."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, str(rows), str(out)],
        env=os.environ | {"APPRENTICE_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{rows}" in done.stdout
    return float(done.stderr.split()[-1])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_five_times_the_rows_take_hardly_more_memory(
    form: str, big_home: Path, tmp_path: Path
) -> None:
    few = peak_mb(big_home, form, FEW, tmp_path / "few")
    all_of_them = peak_mb(big_home, form, ROWS, tmp_path / "all")
    assert all_of_them - few < MORE_MB
