"""What is measured: each contestant's process, its address and the headers that it wants.

Belongs here: installing the peers once (each in an environment of its own below `.bench/`),
starting and ending every contestant. Does not: load, tables.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway.messages import PATH

PORTKEY = "1.15.2"
LITELLM = "1.106.2"
START_S = 180.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """One started server. `pid` is the process whose memory and CPU count, 0 where it has none."""

    name: str
    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"


Start = Callable[[int], contextlib.AbstractContextManager[Contestant]]


@contextlib.contextmanager
def upstream() -> Iterator[Contestant]:
    """The instant upstream, asked directly."""
    with _child([sys.executable, "-m", "bench.gateway.upstream"]) as (process, port):
        yield Contestant("upstream directly", port, PATH, pid=process.pid)


@contextlib.contextmanager
def bare(upstream_port: int) -> Iterator[Contestant]:
    """uvicorn and aiohttp, passing on and nothing else."""
    url = f"http://127.0.0.1:{upstream_port}"
    with _child([sys.executable, "-m", "bench.gateway.bare", url]) as (process, port):
        yield Contestant("bare pass-through", port, PATH, pid=process.pid)


@contextlib.contextmanager
def apprentice(upstream_port: int) -> Iterator[Contestant]:
    """This gateway, one worker, durable capture on, on a home of its own."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        config = Path(folder, "apprentice.yaml")
        config.write_text(
            f"remote: {{endpoints: {{openai: 'http://127.0.0.1:{upstream_port}'}}}}\n",
            encoding="utf-8",
        )
        environment = {
            **os.environ,
            "APPRENTICE_HOME": str(Path(folder, "home")),
            "APPRENTICE_CONFIG": str(config),
        }
        command = [sys.executable, "-m", "apprentice_pipeline.cli", "serve"]
        command += ["--port", str(port), "--workers", "1"]
        with _server(command, port, "/readyz", environment) as process:
            worker = _child_of(process.pid, "gateway.worker")
            path = f"/v1/capture/openai{PATH}"
            yield Contestant("apprentice, capture on", port, path, pid=worker)


@contextlib.contextmanager
def portkey(upstream_port: int) -> Iterator[Contestant]:
    """Portkey's gateway on Node."""
    folder, port = _portkey_folder(), _free_port()
    script = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}",
    }
    with _server(["node", str(script), f"--port={port}", "--headless"], port, "/") as process:
        yield Contestant(f"Portkey {PORTKEY}", port, f"/v1{PATH}", headers, process.pid)


@contextlib.contextmanager
def litellm(upstream_port: int) -> Iterator[Contestant]:
    """LiteLLM's proxy, one worker, without spend logs."""
    program, port = _litellm_program(), _free_port()
    with tempfile.TemporaryDirectory(prefix="bench-litellm-") as folder:
        config = Path(folder, "config.yaml")
        config.write_text(
            "model_list:\n- model_name: gpt-4o\n  litellm_params:\n"
            f"    {{model: openai/gpt-4o, api_base: 'http://127.0.0.1:{upstream_port}',"
            " api_key: sk-bench}\n"
            "general_settings: {disable_spend_logs: true}\n",
            encoding="utf-8",
        )
        environment = {
            **os.environ,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "LITELLM_LOG": "ERROR",
        }
        command = [str(program), "--config", str(config), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--num_workers", "1"]
        with _server(command, port, "/health/liveliness", environment) as process:
            yield Contestant(f"LiteLLM {LITELLM}", port, f"/v1{PATH}", pid=process.pid)


PEERS: Mapping[str, Start] = {"portkey": portkey, "litellm": litellm}


def _portkey_folder() -> Path:
    folder = _cache() / f"portkey-{PORTKEY}"
    if not (folder / "node_modules").exists():
        if shutil.which("npm") is None:
            raise SystemExit("Portkey's gateway needs Node and npm; or pass --peers litellm")
        folder.mkdir(parents=True, exist_ok=True)
        _say(f"installing Portkey {PORTKEY}")
        package = f"@portkey-ai/gateway@{PORTKEY}"
        quiet = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder)]
        subprocess.run(["npm", "install", *quiet, package], check=True, stdout=sys.stderr)
    return folder


def _litellm_program() -> Path:
    folder = _cache() / f"litellm-{LITELLM}-python-{platform.python_version()}"  # as everybody's
    program = folder / "bin" / "litellm"
    if not program.exists():
        _say(f"installing LiteLLM {LITELLM}")
        venv.create(folder, with_pip=True)
        quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        wanted = f"litellm[proxy]=={LITELLM}"
        subprocess.run([str(folder / "bin" / "python"), *quiet, wanted], check=True)
    return program


def _cache() -> Path:
    return Path(__file__).resolve().parents[2] / ".bench"


@contextlib.contextmanager
def _child(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process of ours: it prints its port, and leaves when its standard input ends."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def _server(
    command: list[str], port: int, probe: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is up once `probe` is answered at all."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await(f"http://127.0.0.1:{port}{probe}", process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with opener.open(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{Path(str(process.args[0])).name} does not answer")  # type: ignore[index]


def _child_of(pid: int, word: str) -> int:
    """The child process of `pid` whose command line has `word`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = folder.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == pid and word in folder.joinpath("cmdline").read_text():
                return int(folder.name)
    return 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
