"""`python -m bench.export`: exports of N pairs by the command and over HTTP, with their memory.

Each export runs in a child process of its own; peak resident memory is the kernel's own figure
(`ru_maxrss` of the command, `VmHWM` of the server's worker). The lake is made first, or taken
from `--home`, and removed at the end unless it was given.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.export.making import NAMESPACE, sealed_pairs_shown

LIMIT_MB: Final = 500
_CASES: Final = (
    ("jsonl", "pairs"),
    ("parquet", "pairs"),
    ("jsonl", "chat"),
    ("jsonl", "trl"),
    ("parquet", "trl"),
    ("jsonl", "sharegpt"),
    ("parquet", "sharegpt"),
)
_STYLES: Final = tuple(dict.fromkeys(style for _, style in _CASES))


@dataclass(frozen=True, slots=True)
class Measured:
    """One export."""

    path: str
    form: str
    style: str
    seconds: float
    bytes: int
    peak_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; exit 1 where an export took more memory than the bound."""
    options = _options(arguments)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bench-export-") as folder:
        home = options.home or Path(folder) / "home"
        if not (home / "lake" / "default").exists():
            _make(home, options.pairs, options.days)
        found = []
        cases = [(form, style) for form, style in _CASES if style in options.style]
        for form, style in cases:
            found.append(_by_command(home, Path(folder), form, style))
            console.print(f"{found[-1]}")
        for form, style in cases:
            with _server(home) as (port, pid):
                found.append(_over_http(port, pid, form, style))
            console.print(f"{found[-1]}")
    _show(found, options.pairs)
    return int(any(each.peak_mb > LIMIT_MB for each in found))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.export", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30, help="over how many days they came")
    parser.add_argument("--home", type=Path, help="where the lake is, or is to stay")
    parser.add_argument("--style", choices=_STYLES, nargs="+", default=_STYLES)
    return parser.parse_args(arguments)


def _make(home: Path, pairs: int, days: int) -> None:
    """In a process of its own: a child's `ru_maxrss` begins with what its parent had."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(sealed_pairs_shown, home, pairs, days).result()


def _by_command(home: Path, folder: Path, form: str, style: str) -> Measured:
    out = folder / f"{style}.{form}"
    arguments = ["--namespace", NAMESPACE, "--format", form, "--style", style, "--out", str(out)]
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "apprentice_pipeline.cli", "labels", *arguments],
        env=_environment(home),
        cwd=home,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the export ended with {child.returncode}")
    size = out.stat().st_size
    out.unlink()
    return Measured("command", form, style, seconds, size, _peak_mb(usage))


def _peak_mb(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * 1_024 / 1e6


def _over_http(port: int, pid: int, form: str, style: str) -> Measured:
    started, size = time.monotonic(), 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    asked = f"namespace={NAMESPACE}&format={form}&style={style}"
    connection.request("GET", f"/v1/labels/synthesize-corpus?{asked}")
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"the export answered {answer.status}")
    while piece := answer.read(1 << 20):
        size += len(piece)
    connection.close()
    seconds = time.monotonic() - started
    return Measured("HTTP", form, style, seconds, size, _high_water_mb(pid))


@contextmanager
def _server(home: Path) -> Iterator[tuple[int, int]]:
    """A gateway with one worker: its port, and the process to watch (the largest below it)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    child = subprocess.Popen(
        [sys.executable, "-m", "apprentice_pipeline.cli", "serve", "--port", str(port)],
        env=_environment(home),
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port)
        yield port, child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the gateway did not start")


def _high_water_mb(parent: int) -> float:
    """The most that any process of the server ever had resident."""
    return max(_status_mb(pid) for pid in [parent, *_descendants(parent)])


def _descendants(parent: int) -> Iterator[int]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if above == parent:
            yield int(file.parent.name)
            yield from _descendants(int(file.parent.name))


def _status_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1_024 / 1e6 if found else 0.0


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APPRENTICE_")}
    root = str(Path(__file__).parents[2])
    return kept | {"APPRENTICE_HOME": str(home.resolve()), "PYTHONPATH": root}


def _show(found: Sequence[Measured], pairs: int) -> None:
    table = Table(title=f"exports of {pairs:,} pairs")
    for name in ("path", "form", "style", "seconds", "rows/s", "MB/s", "peak RSS MB"):
        table.add_column(name, justify="left" if name in {"path", "form", "style"} else "right")
    for each in found:
        table.add_row(
            each.path,
            each.form,
            each.style,
            f"{each.seconds:.1f}",
            f"{pairs / each.seconds:,.0f}",
            f"{each.bytes / 1e6 / each.seconds:.1f}",
            f"{each.peak_mb:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
