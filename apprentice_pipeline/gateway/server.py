"""The gateway's supervisor: one socket, N workers, and what a node needs once.

Belongs here: binding, starting and restarting workers, stopping them gracefully; the loops that
drain spools into the lake, follow the registry and look after the lake; the embedded backend's
process. Does not: serving a request (`worker`, `app`).
Promise: a worker that dies is replaced; when this process dies its workers leave too.
"""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from apprentice_pipeline.errors import ApprenticeError, StoreError, UsageError
from apprentice_pipeline.gateway.access import is_loopback
from apprentice_pipeline.gateway.draining import Draining
from apprentice_pipeline.gateway.maintenance import Maintenance
from apprentice_pipeline.gateway.metrics import FOLDER_VARIABLE
from apprentice_pipeline.gateway.metrics_files import make_folder
from apprentice_pipeline.gateway.probe import is_up
from apprentice_pipeline.gateway.tls import certificate_of
from apprentice_pipeline.gateway.webhook import POST_S, Webhook
from apprentice_pipeline.records import now_us
from apprentice_pipeline.serving.opening import open_supervisor
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.store import loss_files
from apprentice_pipeline.store.handover import handed_over, shown
from apprentice_pipeline.store.secrecy import keep_memory_private
from apprentice_pipeline.store.workspace import Workspace

BACKLOG = 2_048
WATCH_S = 0.1
AFTER_GRACE_S = 30.0
"""What a worker may take once its calls have ended: its spool's end (20 s) is the longest."""
JOIN_S = 5.0
LAST_DRAIN_S = 15.0
READY_S = 60.0
FIRST_RESTART_S, LAST_RESTART_S = 0.1, 5.0
STEADY_S = 10.0
MOST_FALSE_STARTS = 5
DRAIN_NICE = 15
LOSSES_S = 1.0


def serve(
    settings: Settings,
    host: str,
    port: int,
    workers: int,
    *,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. For a process's main thread.

    `on_ready` gets the base URL once requests are answered; by default it is printed on stderr.
    Raises: UsageError when the address cannot be had, or is not loopback and no key exists, or
    the TLS certificate does not serve; StoreError when no worker comes up.
    """
    limits = settings.config.gateway
    certificate = certificate_of(limits.tls_certificate, limits.tls_key)
    if certificate is not None:
        certificate.context()
    workspace = Workspace.open(settings)
    try:
        _refuse_open_house(workspace, host)
        with _bind(host, port) as listening, _pid_file(settings.home.run):
            keep_memory_private()
            _Supervisor(workspace, listening, workers, on_ready or _announce).run()
    finally:
        workspace.close()


class _Worker:
    """One worker process and when to start its successor."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._pause_s = FIRST_RESTART_S
        self._next_start = 0.0
        self.false_starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def watch(self, now: float) -> None:
        """Starts the process if there is none; after a quick death only after a pause."""
        if self.process is not None and self.process.poll() is not None:
            lived = now - self._started
            self.false_starts = 0 if lived > STEADY_S else self.false_starts + 1
            self._pause_s = FIRST_RESTART_S if lived > STEADY_S else self._pause_s * 2
            self._next_start = now + min(self._pause_s, LAST_RESTART_S)
            self._close_pipe()
            self.process = None
        if self.process is None and now >= self._next_start:
            self.process = self._start()
            self._started = now

    def stop(self, deadline: float) -> None:
        """Waits for the end that SIGTERM asked for; kills at the deadline."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class _Supervisor:
    """What runs between binding and leaving."""

    def __init__(
        self,
        workspace: Workspace,
        listening: socket.socket,
        workers: int,
        on_ready: Callable[[str], None],
    ) -> None:
        self._workspace = workspace
        self._listening = listening
        self._url = _url(listening, tls=bool(workspace.config.gateway.tls_certificate))
        self._on_ready = on_ready
        self._stopping = threading.Event()
        self._draining = Draining(workspace, self._alert)
        self._metrics = make_folder(workspace.home.run)
        loss_files.make_folder(workspace.home.losses)
        self._workers = [_Worker(self._start_worker) for _ in range(workers)]

    def run(self) -> None:
        """Supervises until a signal comes."""
        config = self._workspace.config
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        maintenance = Maintenance(self._workspace, self._stopping)
        loops = [
            self._every(maintenance.look_s, maintenance.look),
            self._every(self._draining.pause_s, self._draining.look, nice=DRAIN_NICE),
            self._every(config.serving.registry_poll_s, self._follow_registry),
            self._every(LOSSES_S, self._add_losses),
        ]
        if config.alerts.webhook:
            webhook = Webhook(
                config.alerts.webhook, self._workspace.state, self._workspace.home.run
            )
            loops.append(self._every(POST_S, webhook.look))
        backend = open_supervisor(self._workspace)
        if backend is not None:
            backend.start()
        gc.freeze()  # what start-up made lives as long as the process: never look at it again
        try:
            self._watch()
        finally:
            self._stopping.set()
            self._stop_workers()
            self._join(loops)
            if backend is not None:
                backend.stop()
            if not any(loop.is_alive() for loop in loops):
                self._drain_last()
            shutil.rmtree(self._metrics, ignore_errors=True)
            self._guarded(self._add_losses)
            loss_files.remove_folder(self._workspace.home.losses)

    def _watch(self) -> None:
        announced, give_up = False, time.monotonic() + READY_S
        while not self._stopping.is_set():
            for worker in self._workers:
                worker.watch(time.monotonic())
            if not announced:
                announced = is_up(f"{self._url}/readyz")
                if announced:
                    self._on_ready(self._url)
                failing = all(w.false_starts >= MOST_FALSE_STARTS for w in self._workers)
                if not announced and (failing or time.monotonic() > give_up):
                    raise StoreError(
                        "no gateway worker comes up", remedy="its own message stands above"
                    )
            self._stopping.wait(WATCH_S)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        descriptor = self._listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "apprentice_pipeline.gateway.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env=shown(self._workspace.settings, os.environ) | {FOLDER_VARIABLE: str(self._metrics)},
            process_group=0,  # of this session: what is nice here is nice to it
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(handed_over(self._workspace.settings, descriptor=descriptor))
            process.stdin.flush()
        return process

    def _stop_workers(self) -> None:
        grace_s = self._workspace.config.gateway.shutdown_grace_s
        deadline = time.monotonic() + grace_s + AFTER_GRACE_S
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.stop(deadline)

    def _join(self, loops: list[threading.Thread]) -> None:
        """Waits for the loops, but not for a lake or a registry that does not answer."""
        deadline = time.monotonic() + JOIN_S
        for loop in loops:
            loop.join(max(0.0, deadline - time.monotonic()))

    def _drain_last(self) -> None:
        """What the workers left goes to the lake, if that can be reached; else the next start
        finds it."""
        last = threading.Thread(target=self._guarded, args=(self._draining.look,), daemon=True)
        last.start()
        last.join(LAST_DRAIN_S)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ApprenticeError as error:
            self._alert(type(error).__name__, error.message)
        except Exception as error:  # the thread's edge: the loop outlives every failure
            self._alert("unexpected", f"{work.__qualname__} failed: {type(error).__name__}")

    def _every(
        self, seconds: float | Callable[[], float], work: Callable[[], None], *, nice: int = 0
    ) -> threading.Thread:
        """Runs `work` again and again in a thread of its own, until stopping.

        `seconds`: the pause before each, or what tells it. `nice`: how far calls under way come
        first; threads that `work` starts inherit it.
        """

        def loop() -> None:
            with contextlib.suppress(OSError, AttributeError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
            while not self._stopping.wait(seconds() if callable(seconds) else seconds):
                self._guarded(work)

        thread = threading.Thread(target=loop, name=work.__qualname__, daemon=True)
        thread.start()
        return thread

    def _follow_registry(self) -> None:
        from apprentice_pipeline.routing.following import follow_registry

        follow_registry(self._workspace)

    def _add_losses(self) -> None:
        loss_files.add_left_over(self._workspace.home.losses, self._workspace.state)

    def _alert(self, kind: str, message: str) -> None:
        with contextlib.suppress(ApprenticeError):
            self._workspace.state.add_alert("", "", f"gateway_{kind}", message, now_us=now_us())


def _refuse_open_house(workspace: Workspace, host: str) -> None:
    if not is_loopback(host) and not workspace.state.any_keys():
        raise UsageError(
            f"{host or 'every address'} is not loopback, and no key exists",
            remedy="make one first (`apprentice key create --tenant T`), or use 127.0.0.1",
        )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            remedy="choose another with --port, or stop what listens there",
        ) from None
    listening.set_inheritable(True)
    return listening


def _url(listening: socket.socket, *, tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    scheme = "https" if tls else "http"
    place = f"[{address}]" if address.version == 6 else str(address)
    return f"{scheme}://{place}:{port}"


@contextlib.contextmanager
def _pid_file(folder: Path) -> Iterator[None]:
    file = folder / "gateway.pid"
    file.write_text(f"{os.getpid()}\n", encoding="ascii")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="ascii").strip() == str(os.getpid()):
                file.unlink()


def _announce(url: str) -> None:
    sys.stderr.write(f"apprentice gateway listening on {url}\n")
    sys.stderr.flush()
