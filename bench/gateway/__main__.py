"""`python -m bench.gateway`: one table, one run, one machine, everything beside everything.

Belongs here: which runs, in which order, and the table. Does not: servers (`contestants`), load
(`load`, `wrk`). Contestants take turns within each round, so that a busy minute of the machine hits
all of them; a figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from apprentice_pipeline.cli.interpreter import is_optimised
from bench.gateway import contestants, wrk
from bench.gateway.contestants import PEERS, Contestant, Start
from bench.gateway.load import Orders
from bench.gateway.messages import request

STEADY_RATE = 1_000.0
SLICES = 5
"""Of a soak's tenth; the bare pass-through runs after each."""
MOMENT_S = 0.6


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. `rate` 0 is a closed loop; by our own generator, or by wrk."""

    connections: int
    streamed: bool
    rate: float = 0.0
    by_wrk: bool = False

    @property
    def name(self) -> str:
        """How the table calls it."""
        kind = "streaming" if self.streamed else "plain"
        load = f"{self.rate:,.0f}/s" if self.rate else f"c={self.connections}"
        return f"{kind} {load}{' wrk' if self.by_wrk else ''}"


CASES = (
    *(Case(connections, streamed) for streamed in (False, True) for connections in (1, 16, 64)),
    Case(32, False, STEADY_RATE),
    Case(32, True, STEADY_RATE / 2),
)
WRK_CASES = tuple(Case(connections, streamed=False, by_wrk=True) for connections in (1, 16, 64))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the table goes to stdout, progress to stderr."""
    options = _options(arguments)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(contestants.upstream())
        wanted: list[Start] = [contestants.bare, contestants.apprentice]
        wanted += [PEERS[name] for name in options.peers]
        started = [upstream, *(stack.enter_context(each(upstream.port)) for each in wanted)]
        if options.soak:
            return _soak(started[1], started[2], options.soak, options.json)
        results = _measure(started, options.rounds, options.seconds)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        _print(started, results)
    return 0


def _measure(
    started: Sequence[Contestant], rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Per case and contestant: requests/s, p50 and p99 in ms, time to first byte, failures."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    cases = (*CASES, *(WRK_CASES if wrk.is_installed() else ()))
    with Progress(console=Console(stderr=True)) as progress:
        if not wrk.is_installed():
            progress.print("wrk is not installed: its rows are left out (apt-get install wrk)")
        task = progress.add_task("measuring", total=rounds * len(cases) * len(started))
        for turn in range(rounds):
            for case in cases:
                for each in started:
                    progress.update(task, description=f"{each.name}, {case.name}", advance=1)
                    if case.rate and each.name.startswith(("Portkey", "LiteLLM")):
                        continue  # neither reaches the rate: its delays would only grow
                    if turn == 0:
                        _run(each, case, min(1.0, seconds))
                    runs.setdefault((case.name, each.name), []).append(_run(each, case, seconds))
    results: dict[str, dict[str, Any]] = {}
    for (case_name, name), seen in runs.items():
        results.setdefault(case_name, {})[name] = _summed(seen)
    return results


def _run(each: Contestant, case: Case, seconds: float, count: int = 0) -> dict[str, Any]:
    data = request(each.address, each.path, dict(each.headers), streamed=case.streamed)
    if case.by_wrk:
        return wrk.run(each.port, data, case.connections, seconds)
    orders = Orders(
        "127.0.0.1", each.port, data.decode(), case.connections, seconds, case.rate, count
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.gateway.load"],
        input=json.dumps(asdict(orders)),
        capture_output=True,
        text=True,
        check=True,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def _rate(run: dict[str, Any]) -> float:
    return float(run["requests"] / run["seconds"])


def _summed(seen: Iterable[dict[str, Any]]) -> dict[str, Any]:
    runs = list(seen)

    def median(name: str, share: str) -> float:
        return 1e3 * float(statistics.median(run[name][share] for run in runs))

    return {
        "requests_per_second": statistics.median(map(_rate, runs)),
        "p50_ms": median("latencies", "0.5"),
        "p99_ms": median("latencies", "0.99"),
        "first_byte_p50_ms": median("first_bytes", "0.5"),
        "failed": sum(run["failed"] for run in runs),
    }


def _print(started: Sequence[Contestant], results: dict[str, dict[str, Any]]) -> None:
    build = "" if is_optimised() else ", built without optimisation"
    table = Table(
        title=f"{os.cpu_count()} cores, Python {platform.python_version()}{build}, "
        "instant upstream, median of the rounds"
    )
    for column in ("load", "contestant", "req/s", "of bare", "p50 ms", "p99 ms", "first byte ms"):
        table.add_column(column, justify="left" if column in ("load", "contestant") else "right")
    table.add_column("failed", justify="right")
    for case, by_name in results.items():
        limit = by_name[started[1].name]["requests_per_second"]
        for name, figures in by_name.items():
            rate = figures["requests_per_second"]
            table.add_row(
                case,
                name,
                f"{rate:,.0f}",
                f"{rate / limit:.0%}",
                f"{figures['p50_ms']:.2f}",
                f"{figures['p99_ms']:.2f}",
                f"{figures['first_byte_p50_ms']:.2f}",
                str(figures["failed"]),
            )
        table.add_section()
    Console(width=110).print(table)


def _soak(bare: Contestant, each: Contestant, requests: int, as_json: bool) -> int:
    """Many requests through one worker: memory and throughput, tenth by tenth.

    The bare pass-through runs in between, for moments: what it does tells how fast the machine is
    just then.
    """
    case, tenths = Case(16, False), list[dict[str, float]]()
    _run(each, case, 0, 50_000)
    before = _memory_mb(each.pid)
    with Progress(console=Console(stderr=True)) as progress:
        for _ in progress.track(range(10), description=f"{requests:,} requests"):
            slices, limits = [], []
            for _slice in range(SLICES):
                slices.append(_run(each, case, 0, requests // 10 // SLICES))
                limits.append(_rate(_run(bare, case, MOMENT_S)))
            rate = sum(run["requests"] for run in slices) / sum(run["seconds"] for run in slices)
            tenths.append(
                {
                    "requests_per_second": rate,
                    "of_bare": rate / statistics.mean(limits),
                    "resident_mb": _memory_mb(each.pid),
                }
            )

    def last_of_first(name: str) -> float:
        return tenths[-1][name] / tenths[0][name]

    told: dict[str, Any] = {
        "resident_mb_after_50000": before,
        "tenths": tenths,
        "memory_growth": tenths[-1]["resident_mb"] / before - 1,
        "last_tenth_of_first": last_of_first("requests_per_second"),
        "last_tenth_of_first_of_bare": last_of_first("of_bare"),
    }
    print(json.dumps(told, indent=1) if as_json else _soak_text(told))
    return 0


def _soak_text(told: dict[str, Any]) -> str:
    lines = [
        f"tenth {number}: {each['requests_per_second']:,.0f} req/s, {each['of_bare']:.0%} of bare, "
        f"{each['resident_mb']:.0f} MB"
        for number, each in enumerate(told["tenths"], 1)
    ]
    return "\n".join(
        [
            f"after 50,000: {told['resident_mb_after_50000']:.0f} MB",
            *lines,
            f"memory grew {told['memory_growth']:+.1%}; last tenth at"
            f" {told['last_tenth_of_first']:.0%} of the first, measured by the bare pass-through"
            f" {told['last_tenth_of_first_of_bare']:.0%}",
        ]
    )


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1_024
    return float("nan")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="a run")
    parser.add_argument("--peers", default="portkey,litellm", help="'' for none")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="N requests instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if options.soak:
        options.peers = []
    return options


if __name__ == "__main__":
    sys.exit(main())
