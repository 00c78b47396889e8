"""Keys and customer text stay in memory: no log, metric, command line or crash lets them out."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

CHAT = "/v1/chat/completions"
TEXT = "kingfisher-over-the-weir"
KEY = "sk-heron-in-the-reeds"
MASTER = base64.b64encode(b"bittern in the marsh, thirty-two"[:32]).decode()
SIGNING = "plover-on-the-moor-signs"
SECRETS = {
    "ANTHROPIC_API_KEY": f"{KEY}-anthropic",
    "OPENAI_API_KEY": f"{KEY}-openai",
    "APPRENTICE_MASTER_KEY": MASTER,
    "APPRENTICE_SIGNING_SECRET": SIGNING,
}
CANARIES = [TEXT, KEY, "heron-in-the-reeds", MASTER, SIGNING]
REMOTE = {
    "additional_providers": [
        {"provider": "openai", "model": "gpt-4o", "api_key_env": "OPENAI_API_KEY"}
    ]
}
ABORT = """
import ctypes, os, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
from apprentice_pipeline.store.secrecy import keep_memory_private
keep_memory_private()
assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
if sys.platform == "linux":
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, "dumpable"
os.kill(os.getpid(), int(sys.argv[1]))
"""


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    for number in (signal.SIGABRT, signal.SIGSEGV):
        process = subprocess.Popen([sys.executable, "-c", ABORT, str(int(number))], cwd=tmp_path)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -number
        assert os.WTERMSIG(status) == number
        assert not os.WCOREDUMP(status)
    assert list(tmp_path.iterdir()) == []


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            children += [int(child) for child in task.read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


def test_nothing_a_process_shows_holds_a_secret(serve: Any, ask: Any) -> None:
    """Not its command line, title or environment, and none of them would leave a core."""
    command = serve(environment=SECRETS)
    headers = {"authorization": f"Bearer {KEY}"}
    assert ask(command.capture(), CHAT, orjson.dumps(chat()), headers).status == 200
    found = family(command.process.pid)
    assert len(found) >= 3  # the supervisor, its worker, the worker's spool writer
    for pid in found:
        shown = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "comm")]
        if pid != command.process.pid:  # whose environment the user made
            shown.append(Path(f"/proc/{pid}/environ").read_bytes())
        assert leaks(b"\0".join(shown)) == []
        limits = Path(f"/proc/{pid}/limits").read_text()
        (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4] == "0", Path(f"/proc/{pid}/cmdline").read_bytes()


def chat() -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": TEXT}]}


def leaks(data: bytes) -> list[str]:
    return [canary for canary in CANARIES if canary.encode() in data]


def test_failures_and_crashes_say_nothing_of_what_was_sent(
    serve: Any, ask: Any, provider: Any
) -> None:
    """Of keys and text in headers, bodies, paths, queries: not in logs, metrics, alerts, files."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    command = serve(
        environment={**SECRETS, "PYTHONFAULTHANDLER": "1"},
        remote={"endpoints": {"openai": provider.url, "anthropic": nowhere}, **REMOTE},
        gateway={"max_body_bytes": 100_000, "max_headers": 30},
    )
    heads = {"authorization": f"Bearer {KEY}", "x-api-key": KEY, "x-custom": TEXT}
    answers = []
    for name, path, body, more in (
        ("openai", CHAT, orjson.dumps(chat()), {}),
        ("openai", CHAT, orjson.dumps(chat()), {"x-behave": "error"}),
        ("openai", CHAT, orjson.dumps(chat()), {"x-behave": "not-json"}),
        ("openai", CHAT, orjson.dumps(chat()), {"x-behave": "cut-stream"}),
        ("openai", CHAT, TEXT.encode() + b"{", {"content-encoding": "gzip"}),
        ("openai", CHAT, orjson.dumps({**chat(), "messages": TEXT}), {}),
        ("openai", f"/v1/files/{TEXT}?key={KEY}", b"", {}),
        ("openai", f"/../{TEXT}?key={KEY}", b"", {}),
        ("openai", CHAT, TEXT.encode() * 10_000, {}),
        ("openai", CHAT, b"{}", {f"x-{n}-{TEXT}": KEY for n in range(40)}),
        ("openai", CHAT, b"{}", {"x-apprentice-key": KEY}),
        ("openai", CHAT, b"{}", {"x-apprentice-namespace": TEXT + "/"}),
        ("anthropic", "/v1/messages", orjson.dumps(chat()), {}),
        ("nobody", f"/{TEXT}", orjson.dumps(chat()), {}),
    ):
        try:
            answers.append(ask(command.capture(name), path, body, {**heads, **more}, "POST"))
        except (OSError, http.client.HTTPException):  # a stream that was cut
            continue
    ours = [a for a in answers if a.status >= 400 and a.header("retry-after") != "7"]
    assert {a.status for a in ours} >= {400, 401, 404, 413, 431, 502}
    assert [leaks(a.body) for a in ours] == [[]] * len(ours)
    (worker,) = command.workers()
    os.kill(worker, signal.SIGSEGV)
    end = time.monotonic() + 90
    while command.workers() in ([], [worker]):
        assert time.monotonic() < end
        time.sleep(0.1)
    while True:
        try:
            told = ask(command.url, "/metrics").body + ask(command.url, "/v1/status").body
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < end
            time.sleep(0.1)
    assert leaks(told) == []
    assert command.stop() == 0
    assert "Segmentation fault" in command.said()
    files = [file for file in command.log.parent.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert {str(file): found for file in files if (found := leaks(file.read_bytes()))} == {}
    assert not [file for file in files if "core" in file.name.split(".")]
