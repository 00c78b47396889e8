"""The same load by wrk, a load generator that everybody has: `wrk -t1`, a closed loop.

Belongs here: its script, its command, what it prints as figures. Does not: our own load (`load`),
which also streams and keeps a rate.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.gateway.aside import stand_aside

_NOT_GIVEN = (b"host", b"content-length", b"connection")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def is_installed() -> bool:
    """Whether there is a wrk to run."""
    return shutil.which("wrk") is not None


def run(port: int, data: bytes, connections: int, seconds: float) -> dict[str, Any]:
    """What `load` tells of a run; wrk does not know of first bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, path, _ = first.decode().split(" ")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        script.write_text(_script(method, lines, body))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
        command += ["-s", str(script), f"http://127.0.0.1:{port}{path}"]
        printed = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=stand_aside,
        ).stdout
    return _figures(printed)


def _script(method: str, lines: list[bytes], body: bytes) -> str:
    headers = [line.split(b": ", 1) for line in lines]
    told = [
        f'wrk.headers["{name.decode()}"] = [==[{value.decode()}]==]'
        for name, value in headers
        if name.lower() not in _NOT_GIVEN
    ]
    return "\n".join([f'wrk.method = "{method}"', *told, f"wrk.body = [==[{body.decode()}]==]"])


def _figures(printed: str) -> dict[str, Any]:
    def found(pattern: str) -> re.Match[str]:
        match = re.search(pattern, printed)
        assert match is not None, printed
        return match

    def share(percent: int) -> float:
        match = found(rf"{percent}%\s+([\d.]+)(us|ms|s)")
        return float(match[1]) * _UNITS[match[2]]

    total = found(r"(\d+) requests in ([\d.]+)(ms|s|m)")
    seconds = float(total[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[total[3]]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed
    )
    return {
        "requests": int(total[1]),
        "seconds": seconds,
        "latencies": {"0.5": share(50), "0.99": share(99)},
        "first_bytes": {"0.5": float("nan")},
        "failed": int(bad[1] if bad else 0) + sum(map(int, broken.groups() if broken else ())),
    }
