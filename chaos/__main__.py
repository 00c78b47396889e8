"""`python -m chaos --kills 200 --seed N [--json]`: progress on stderr, a table or one JSON
document on stdout, exit 1 on any violation.

A response is held until its pair is committed, for `gateway.commit_timeout_ms` at most. Then it
is released at risk: the exchange still waits for its commit, and is lost only where its worker
dies before. The proof is made with a limit of 60 s, which no stall here reaches, so that every
answer counts. `--commit-timeout-ms 250` is what a gateway does by default. Answers that took at
least the limit and have no pair are counted apart from the violations, unless they are more than
the gateway's own count of releases at risk; an answer that was delivered sooner and has no pair
is a violation all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chaos.run import TIMEOUT_MS, Outcome, run


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
            timeout_ms=options.commit_timeout_ms,
            on_kill=on_kill,
        )
    if options.json:
        sys.stdout.write(json.dumps(outcome.to_dict()) + "\n")
    else:
        Console().print(_table(outcome))
    return 0 if outcome.good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument(
        "--commit-timeout-ms",
        type=int,
        default=TIMEOUT_MS,
        help=f"gateway.commit_timeout_ms ({TIMEOUT_MS:,}; a gateway's default is 250)",
    )
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
        *((f"  {way}", times) for way, times in sorted(_by_form(outcome).items())),
        ("answers cut by kills", outcome.cut),
        ("answers refused", outcome.refused),
        ("rows kept", found.rows),
        ("delivered without their pair", found.lost),
        ("  the same, late, and not counted at risk", found.uncounted),
        ("doubles", found.doubled),
        ("pairs with another prompt", found.strangers),
        ("rows that do not open", found.unopened),
        ("spools unreadable", found.unreadable_spools),
        ("rows rejected", found.rejected_rows),
        ("rows stranded in a spool", found.stranded_rows),
        (f"released before their commit, at {outcome.timeout_ms:,} ms", outcome.at_risk),
        ("answers delivered as late as that, or later", found.late),
        ("  of them without their pair", found.late_lost),
        ("exit status of the last stop", outcome.exit_status),
    ):
        table.add_row(name, f"{value:,}")
    table.add_row("seconds", f"{outcome.seconds:,.1f}")
    for example in found.examples:
        table.add_row("for example", example)
    return table


def _by_form(outcome: Outcome) -> Counter[str]:
    """Answers by endpoint, and by manner."""
    found: Counter[str] = Counter()
    for way, times in outcome.ways.items():
        for part in way.split(", "):
            found[part] += times
    return found


if __name__ == "__main__":
    sys.exit(main())
