"""`python -m bench.export.status`: `apprentice capture status` on a lake of N pairs, facts only.

Four times, each a process of its own: counted for the first time, unchanged, after one more drain
with its verdicts, and after a compaction. The verdicts of four pairs in five are in the lake.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.export.making import DRAIN, NAMESPACE, TENANT, facts_alone, opened


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="bench.export.status", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--home", type=Path, help="where the lake is, or is to stay")
    parser.add_argument("--compact", action="store_true", help="measure after a compaction, too")
    options = parser.parse_args(arguments)
    table = Table(title=f"capture status at {options.pairs:,} pairs")
    for name in ("lake", "pairs", "verified", "seconds", "peak RSS MB"):
        table.add_column(name, justify="left" if name == "lake" else "right")
    with tempfile.TemporaryDirectory(prefix="bench-status-") as folder:
        home = options.home or Path(folder) / "home"
        if not (home / "lake" / TENANT).exists():
            _make(home, options.pairs, options.days)
        (home / "work" / TENANT / NAMESPACE / "counts.arrow").unlink(missing_ok=True)
        table.add_row("first counting", *_asked(home))
        table.add_row("unchanged", *_asked(home))
        facts_alone(home, DRAIN, 0, lambda _: None)
        table.add_row("one drain later", *_asked(home))
        if options.compact:
            workspace = opened(home)
            workspace.lake.compact(TENANT)
            workspace.close()
            table.add_row("compacted", *_asked(home))
    Console().print(table)
    return 0


def _make(home: Path, pairs: int, days: int) -> None:
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("making the lake", total=pairs)
        facts_alone(home, pairs, days, lambda made: bar.advance(task, made))


def _asked(home: Path) -> tuple[str, str, str, str]:
    """What the command says of the stream, how long it took, and its peak memory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APPRENTICE_")}
    root = str(Path(__file__).parents[2])
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "apprentice_pipeline.cli", "capture", "status",
         "--namespace", NAMESPACE, "--json"],
        env=kept | {"APPRENTICE_HOME": str(home.resolve()), "PYTHONPATH": root},
        cwd=home,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    said = json.loads(child.stdout.read())
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    peak_mb = usage.ru_maxrss * 1_024 / 1e6
    return f"{said['pairs']:,}", f"{said['verified']:,}", f"{seconds:.2f}", f"{peak_mb:.0f}"


if __name__ == "__main__":
    sys.exit(main())
