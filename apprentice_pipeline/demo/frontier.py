"""The stand-in frontier: a local server that speaks OpenAI and Anthropic from known answers.

Here: starting it in a process of its own, asking what it counted, stopping it, and the command
`python -m apprentice_pipeline.demo.frontier --answers FILE.jsonl`. What it answers and how is in
`stand_in/`. It is for demonstrations, tests and benchmarks: it knows no model. Promises: it
listens on loopback only; answers and keys reach it through a pipe, never by argument or file;
it ends when the process that started it does.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

from apprentice_pipeline.demo.stand_in.answers import FrontierSettings
from apprentice_pipeline.demo.stand_in.server import COUNTERS_PATH, Frontier, FrontierCalls
from apprentice_pipeline.demo.traffic import read_traffic
from apprentice_pipeline.errors import ApprenticeError, RemoteError, UsageError

__all__ = [
    "FrontierCalls",
    "FrontierSettings",
    "RunningFrontier",
    "create_frontier",
    "main",
    "start_frontier",
]

_HOST = "127.0.0.1"
_CHILD = "--from-stdin"
_STOP_S = 5.0


def create_frontier(settings: FrontierSettings, table: Mapping[str, Any]) -> Frontier:
    """The ASGI application, for a server of the caller's choice.

    `table` maps a request's text to its answer: an object is sent as compact JSON, a string as
    it is.
    """
    return Frontier(settings, table)


@dataclass(frozen=True, slots=True)
class RunningFrontier:
    """A stand-in frontier in a process of its own; a context manager that stops it.

    `url` has no path: OpenAI's base URL is `openai_url`, Anthropic's is `url`.
    """

    url: str
    process: subprocess.Popen[bytes]

    @property
    def openai_url(self) -> str:
        """The base URL for the OpenAI SDK, `…/v1`."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for the Anthropic SDK."""
        return self.url

    def calls(self) -> FrontierCalls:
        """What it has counted so far. Raises: RemoteError when it does not answer."""
        port = int(self.url.rpartition(":")[2])
        connection = http.client.HTTPConnection(_HOST, port, timeout=10)
        try:
            connection.request("GET", COUNTERS_PATH)
            return FrontierCalls(**orjson.loads(connection.getresponse().read()))
        except (OSError, http.client.HTTPException) as error:
            raise RemoteError(
                f"the stand-in frontier does not answer ({type(error).__name__})",
                remedy="start it again",
            ) from None
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends the process and waits for it; a second call does nothing."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                _close(stream)
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_frontier(settings: FrontierSettings, table: Mapping[str, Any]) -> RunningFrontier:
    """Starts it on a free loopback port and returns once it accepts connections.

    Raises: UsageError when the table is not JSON; RemoteError when the process ends or says
    nothing.
    """
    orders = _orders(settings, table)
    # The package may be importable here by a path that a child would not have.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "apprentice_pipeline.demo.frontier", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(len(orders).to_bytes(8, "big") + orders)
        process.stdin.flush()
        port = int(process.stdout.readline() or b"0")
    except (OSError, ValueError):
        port = 0
    running = RunningFrontier(f"http://{_HOST}:{port}", process)
    if port == 0:
        running.stop()
        raise RemoteError(
            "the stand-in frontier's process ended before it listened",
            remedy="see its message on stderr",
        )
    return running


def main(argv: Sequence[str] | None = None) -> int:
    """Serves a file of answers, or (as a child) what comes through stdin, until stopped.

    Returns 0 when stopped, 2 with the cause on stderr when it could not start.
    """
    options = _parser().parse_args(argv)
    try:
        return _serve_orders(sys.stdin.buffer) if options.from_stdin else _serve_file(options)
    except ApprenticeError as error:
        sys.stderr.write(f"{error}\n{error.remedy}\n")
        return 2


def _serve_file(options: argparse.Namespace) -> int:
    if options.answers is None:
        raise UsageError("--answers FILE.jsonl is missing", remedy="name a file of answers")
    table = {line.text: line.answer for line in read_traffic(options.answers)}
    listening = _listen(options.port)
    port = listening.getsockname()[1]
    sys.stderr.write(f"{len(table)} answers at http://{_HOST}:{port}\n")
    _serve(create_frontier(_settings(options), table), listening)
    return 0


def _orders(settings: FrontierSettings, table: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps({"settings": asdict(settings), "table": dict(table)})
    except orjson.JSONEncodeError:
        raise UsageError(
            "the frontier's table holds what JSON cannot", remedy="map texts to JSON values"
        ) from None


def _serve_orders(source: IO[bytes]) -> int:
    size = int.from_bytes(source.read(8), "big")
    orders = orjson.loads(source.read(size))
    given = orders["settings"]
    settings = FrontierSettings(**{**given, "models": tuple(given["models"])})
    frontier = create_frontier(settings, orders["table"])
    listening = _listen(0)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    _serve(frontier, listening)
    return 0


def _end_with_parent(source: IO[bytes]) -> None:
    """Our stdin closes when the process that started us stops us, or ends."""
    source.read()
    os._exit(0)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOST, port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"port {port} cannot be used ({error.strerror})", remedy="choose another --port"
        ) from None
    listening.listen(1024)
    return listening


def _serve(frontier: Frontier, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        frontier,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except OSError:  # the process has gone with bytes unread
        return


def _settings(options: argparse.Namespace) -> FrontierSettings:
    given = {
        field.name: getattr(options, field.name)
        for field in fields(FrontierSettings)
        if getattr(options, field.name, None) is not None
    }
    if options.require_key_env:
        key = os.environ.get(options.require_key_env)
        if not key:
            raise UsageError(f"{options.require_key_env} is not set", remedy="export it")
        given["require_key"] = key
    if options.echo:
        given["fallback_text"] = None
    return FrontierSettings(**given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apprentice_pipeline.demo.frontier")
    parser.add_argument("--answers", type=Path, help="lines {'text': …, <answer fields>}")
    parser.add_argument("--port", type=int, default=8711, help="0 takes a free one")
    parser.add_argument(_CHILD, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--require-key-env", help="accept only the key in this variable")
    parser.add_argument("--echo", action="store_true", help="answer unknown texts with the text")
    for name in ("latency_ms", "jitter_ms", "chunk_delay_ms", "rate_window_s"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    for name in ("error_share", "overload_share", "cut_share", "uncertain_share"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="0..1")
    for name in ("seed", "rate_limit", "chunk_chars", "cache_min_tokens"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
