"""`apprentice dev`: gateway, Dagster and MLflow as child processes on one home.

Starts, watches, stops. The children's output goes to log files under the home; one that dies
ends the others, with the end of its log shown. A registry that is a server already is only named.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from apprentice_pipeline.cli.terminal import Terminal
from apprentice_pipeline.errors import ApprenticeError, UsageError
from apprentice_pipeline.settings import Settings

START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Service:
    """One child: how it starts, and the address that answers once it is up."""

    name: str
    command: tuple[str, ...]
    url: str
    ready: str
    log: Path


def run_together(
    settings: Settings, terminal: Terminal, gateway_port: int, dagster_port: int, mlflow_port: int
) -> None:
    """Runs until interrupted.

    Raises: UsageError for a port in use; ApprenticeError when a child dies.
    """
    server = registry_server(settings)
    for port in (gateway_port, dagster_port, *(() if server else (mlflow_port,))):
        _require_free(port)
    services = services_of(settings, gateway_port, dagster_port, mlflow_port)
    addresses = {service.name: service.url for service in services}
    if server:
        addresses["mlflow"] = server
        terminal.say(f"{'mlflow':<8} {server} (the server of registry.tracking_uri)")
    with _running(services, _environment(settings)) as children:
        for service, child in children:
            _await_ready(service, child)
            terminal.say(f"{service.name:<8} {service.url}")
        terminal.result({**addresses, "home": str(settings.home.root)}, "ready; Ctrl-C stops all")
        sys.stdout.flush()
        _watch(children)


def registry_server(settings: Settings) -> str | None:
    """The address of the MLflow server that is the registry, without credentials; None where
    the registry is a database, which a server of ours can show."""
    from apprentice_pipeline.registry.connection import without_credentials

    uri = settings.config.registry.tracking_uri
    return without_credentials(uri) if uri.startswith(("http://", "https://")) else None


def services_of(
    settings: Settings, gateway_port: int, dagster_port: int, mlflow_port: int
) -> list[Service]:
    """What to start: the gateway, Dagster, and MLflow unless the registry is a server already."""
    from apprentice_pipeline.orchestration.runs import prepare_instance
    from apprentice_pipeline.stages.promotion import registry_uri

    logs = settings.home.run
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    prepare_instance(settings.home.dagster)
    python = sys.executable
    gateway, dagster, mlflow = (
        f"http://127.0.0.1:{port}" for port in (gateway_port, dagster_port, mlflow_port)
    )
    if settings.config.gateway.tls_certificate:
        gateway = gateway.replace("http:", "https:", 1)
    services = [
        Service(
            "gateway",
            (python, "-m", "apprentice_pipeline.cli", "serve", "--port", str(gateway_port)),
            gateway,
            f"{gateway}/readyz",
            logs / "gateway.log",
        ),
        Service(
            "dagster",
            (
                *(python, "-m", "dagster", "dev", "--host", "127.0.0.1"),
                *("--port", str(dagster_port)),
                *("--module-name", "apprentice_pipeline.definitions"),
            ),
            dagster,
            f"{dagster}/server_info",
            logs / "dagster.log",
        ),
    ]
    if registry_server(settings) is None:
        services.append(_mlflow(mlflow, mlflow_port, registry_uri(settings), logs))
    return services


def _mlflow(url: str, port: int, store: str, logs: Path) -> Service:
    """MLflow's own server over the database that is the registry."""
    return Service(
        "mlflow",
        (
            *(sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
            *("--backend-store-uri", store),
        ),
        url,
        f"{url}/health",
        logs / "mlflow.log",
    )


def _environment(settings: Settings) -> Mapping[str, str]:
    return {
        **os.environ,
        "APPRENTICE_HOME": str(settings.home.root),
        "DAGSTER_HOME": str(settings.home.dagster),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _running(
    services: list[Service], environment: Mapping[str, str]
) -> Iterator[list[tuple[Service, subprocess.Popen[bytes]]]]:
    children: list[tuple[Service, subprocess.Popen[bytes]]] = []
    try:
        for service in services:
            with open(service.log, "wb") as log:
                child = subprocess.Popen(
                    service.command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=True,
                )
            children.append((service, child))
        yield children
    finally:
        _stop([child for _, child in children])


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + 15
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _await_ready(service: Service, child: subprocess.Popen[bytes]) -> None:
    from apprentice_pipeline.gateway.probe import is_up

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise _died(service, child)
        if is_up(service.ready, timeout_s=2.0):
            return
        time.sleep(0.3)
    raise ApprenticeError(
        f"{service.name} did not answer within {START_SECONDS:.0f} s", remedy=f"see {service.log}"
    )


def _watch(children: list[tuple[Service, subprocess.Popen[bytes]]]) -> None:
    while True:
        for service, child in children:
            if child.poll() is not None:
                raise _died(service, child)
        time.sleep(0.5)


def _died(service: Service, child: subprocess.Popen[bytes]) -> ApprenticeError:
    tail = service.log.read_text(errors="replace").splitlines()[-5:]
    return ApprenticeError(
        f"{service.name} ended with status {child.returncode}:\n" + "\n".join(tail),
        remedy=f"see {service.log}",
    )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(
                f"port {port} is in use",
                remedy="stop what uses it, or choose others: apprentice dev --help",
            ) from None
