"""Keeps one embedded server running for a home, whoever else wants one too.

Belongs here: starting, watching, restarting and stopping the process; the lock that makes it
one a node. Does not: the server (`embedded_server`), asking it (`embedded`).

Every process that may need the local model runs a supervisor; the one that holds the lock
starts the server, the others stand by and take over when its process ends. Without a champion
anywhere there is nothing to serve and no server runs, unless `ensure` asks for one.

The server's environment is made from nothing: no provider key, no secret reaches it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import orjson

from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.serving.champions import trusted_by
from apprentice_pipeline.serving.embedded_server import ServerSettings
from apprentice_pipeline.serving.frames import private_folder, socket_path
from apprentice_pipeline.store.workspace import Workspace

WATCH_S = 0.2
CHAMPION_POLL_S = 2.0
FIRST_RESTART_S, LAST_RESTART_S = 0.2, 30.0
STEADY_S = 60.0
STOP_S = 5.0
_SERVER = "apprentice_pipeline.serving.embedded_server"
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"),
)


class EmbeddedSupervisor:
    """Supervises the embedded server of one workspace from a thread of its own."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._run = workspace.home.run
        self.socket = socket_path(self._run)
        self.starts = 0
        self.fault: ApprenticeError | None = None
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin supervising; returns at once. Starting twice is starting once."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._watch, name="embedded", daemon=True)
            self._thread.start()

    def ensure(self, timeout_s: float = 30.0) -> bool:
        """Have a server run, here or under another supervisor; whether it listens in time."""
        self._wanted.set()
        self.start()
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up and self.fault is None:
            if self.listening():
                return True
            time.sleep(0.05)
        return self.listening()

    def stop(self) -> None:
        """Stop supervising, and the server if it is ours."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._end_process()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it runs elsewhere or not at all."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def listening(self) -> bool:
        """Whether a server accepts connections on this home's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
            return True

    def _watch(self) -> None:
        pause_s, next_start, next_poll, started = FIRST_RESTART_S, 0.0, 0.0, 0.0
        while not self._stopping.wait(WATCH_S):
            now = time.monotonic()
            if not self._wanted.is_set() and now >= next_poll:
                next_poll = now + CHAMPION_POLL_S
                self._want_if_champions()
            if not self._wanted.is_set() or self.pid is not None or not self._hold_lock():
                continue
            if self._process is not None:  # it has ended
                pause_s = FIRST_RESTART_S if now - started > STEADY_S else pause_s
                next_start = now + pause_s
                pause_s = min(LAST_RESTART_S, pause_s * 2)
                self._end_process()
            if now >= next_start:
                self._start_process()
                started, next_start = now, now + pause_s

    def _want_if_champions(self) -> None:
        try:
            if self._workspace.state.champions():
                self._wanted.set()
        except ApprenticeError as error:
            self.fault = error

    def _hold_lock(self) -> bool:
        if self._lock is not None:
            return True
        descriptor = os.open(
            private_folder(self._run) / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def _start_process(self) -> None:
        try:
            settings = server_settings(self._workspace)
        except ApprenticeError as error:
            self.fault = error
            return
        self.fault = None
        log = os.open(self._run / "embedded.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _SERVER, "--socket", str(self.socket)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=server_environment(os.environ, settings.threads),
                start_new_session=True,
            )
        finally:
            os.close(log)
        self.starts += 1
        if self._process.stdin is not None:  # it stays open: its end tells the server to leave
            self._process.stdin.write(orjson.dumps(asdict(settings)) + b"\n")
            self._process.stdin.flush()

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def server_settings(workspace: Workspace) -> ServerSettings:
    """What this workspace's server is started with.

    Raises: ArtifactError when there is no public key to trust.
    """
    local = workspace.config.local
    return ServerSettings(
        base=local.base_model,
        public_key=trusted_by(workspace).decode(),
        scratch=str(workspace.home.run / "embedded"),
        model_dir=str(Path(local.model_dir).expanduser().absolute()),
        queue_size=local.queue_size,
        max_batch=local.max_batch,
        max_adapters=local.max_adapters,
        threads=local.threads,
    )


def server_environment(ours: Mapping[str, str], threads: int) -> dict[str, str]:
    """The server's environment: where Python is, offline, quiet, a small heap; nothing secret."""
    environment = {name: ours[name] for name in _PASSED_ON if name in ours}
    package = str(Path(__file__).resolve().parents[2])
    environment |= {
        "PYTHONPATH": package,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_ARENA_MAX": "2",
    }
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment
