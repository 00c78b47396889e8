"""`python -m chaos --kills 200 --seed N [--json]`: progress on stderr, a table or one JSON
document on stdout, exit 1 on any violation."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chaos.run import Outcome, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it in a folder that is removed afterwards."""
    options = _options(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        Progress(console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("kill -9", total=options.kills)

        def on_kill(kind: str) -> None:
            progress.update(bar, advance=1, description=f"kill -9 {kind}")

        outcome = run(
            Path(folder),
            kills=options.kills,
            seed=options.seed,
            workers=options.workers,
            connections=options.connections,
            on_kill=on_kill,
        )
    if options.json:
        sys.stdout.write(json.dumps(outcome.to_dict()) + "\n")
    else:
        Console().print(_table(outcome))
    return 0 if outcome.good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _table(outcome: Outcome) -> Table:
    found = outcome.verdict
    killed = ", ".join(f"{times} {kind}" for kind, times in sorted(outcome.kills.items()))
    table = Table(title=f"chaos, seed {outcome.seed}: {'proved' if outcome.good else 'VIOLATED'}")
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, value in (
        (f"kills ({killed})", sum(outcome.kills.values())),
        ("answers delivered whole", found.delivered),
        ("  of them streamed", outcome.streamed),
        ("answers cut by kills", outcome.cut),
        ("answers refused", outcome.refused),
        ("rows kept", found.rows),
        ("delivered without their pair", found.lost),
        ("doubles", found.doubled),
        ("pairs with another prompt", found.strangers),
        ("rows that do not open", found.unopened),
        ("spools unreadable", found.unreadable_spools),
        ("rows rejected", found.rejected_rows),
        ("rows stranded in a spool", found.stranded_rows),
        ("released before their commit", outcome.at_risk),
        ("exit status of the last stop", outcome.exit_status),
    ):
        table.add_row(name, f"{value:,}")
    table.add_row("seconds", f"{outcome.seconds:,.1f}")
    for example in found.examples:
        table.add_row("for example", example)
    return table


if __name__ == "__main__":
    sys.exit(main())
