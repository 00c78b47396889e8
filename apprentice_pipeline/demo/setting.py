"""The demo's setting: a frontier to ask, a configuration that points at it, a gateway process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from apprentice_pipeline.config import config_document
from apprentice_pipeline.demo.frontier import FrontierSettings, start_frontier
from apprentice_pipeline.demo.traffic import TrafficLine
from apprentice_pipeline.demo.wave import Target
from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.gateway.probe import is_up
from apprentice_pipeline.settings import Settings
from apprentice_pipeline.stages.access import create_key
from apprentice_pipeline.stages.results import write_atomically
from apprentice_pipeline.store.workspace import Workspace

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
MODELS = {"openai": "gpt-4o", "anthropic": "claude-haiku-4-5-20251001"}
STAND_IN_KEY = "stand-in"
LATENCY_MS, JITTER_MS, UNCERTAIN_SHARE = 90.0, 60.0, 0.02
START_SECONDS = 60.0
MOST_VALUES = 60


@dataclass(frozen=True, slots=True)
class Stage:
    """Where one demo plays: its stream, its days, and where its waves go."""

    namespace: str
    target: Target
    first_day: datetime

    def days(self) -> list[str]:
        """The UTC days since the demo began (two when midnight passes)."""
        today = datetime.now(UTC).date()
        count = (today - self.first_day.date()).days + 1
        return [f"{self.first_day.date() + timedelta(days=i)}" for i in range(count)]


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings every process of the demo starts from, and the frontier's keys."""

    environment: Mapping[str, str]
    home: Path
    keys: Mapping[str, str]
    stand_in: bool
    system_prompt: str
    described: str

    def stage(self, workspace: Workspace, gateway_url: str) -> Stage:
        """A namespace nobody has used yet, and the headers its calls carry."""
        taken = set(workspace.lake.namespaces("default"))
        names = ("demo", *(f"demo-{i}" for i in range(2, 10_000)))
        namespace = next(name for name in names if name not in taken)
        headers = {"x-apprentice-namespace": namespace}
        if workspace.state.any_keys():
            created = create_key(workspace, tenant="default", namespace=namespace, role="capture")
            headers["x-apprentice-key"] = created.key
        return Stage(
            namespace=namespace,
            target=Target(gateway_url, headers, self.keys, MODELS, self.system_prompt),
            first_day=datetime.now(UTC),
        )


@contextmanager
def frontier_setting(
    settings: Settings, lines: Sequence[TrafficLine], base_model: str | None
) -> Iterator[Setting]:
    """The stand-in frontier and a configuration that points at it; or the keys that are set."""
    found = {
        provider: settings.environment[variable]
        for provider, variable in KEY_VARIABLES.items()
        if settings.environment.get(variable)
    }
    with ExitStack() as stack:
        document = config_document(settings.config)
        environment = dict(settings.environment)
        if not found:
            answers = {line.text: line.answer for line in lines}
            running = stack.enter_context(start_frontier(_behaviour(), answers))
            document["remote"]["endpoints"] = {"openai": running.url, "anthropic": running.url}
            environment |= dict.fromkeys(KEY_VARIABLES.values(), STAND_IN_KEY)
        document["remote"]["provider"], *_ = found or ("anthropic",)
        document["remote"]["model"] = MODELS[document["remote"]["provider"]]
        document["remote"]["api_key_env"] = KEY_VARIABLES[document["remote"]["provider"]]
        document["remote"]["additional_providers"] = [
            {"provider": p, "model": MODELS[p], "api_key_env": KEY_VARIABLES[p]}
            for p in (found or KEY_VARIABLES)
            if p != document["remote"]["provider"]
        ]
        if base_model:
            document["local"]["base_model"] = base_model
        file = settings.home.root / "demo.yaml"
        write_atomically(file, yaml.safe_dump(document, sort_keys=False).encode())
        environment |= {
            "APPRENTICE_CONFIG": str(file),
            "APPRENTICE_HOME": str(settings.home.root),
        }
        yield Setting(
            environment=environment,
            home=settings.home.root,
            keys=found or dict.fromkeys(KEY_VARIABLES, STAND_IN_KEY),
            stand_in=not found,
            system_prompt=_system_prompt(lines, every_value=bool(found)),
            described=_described(found),
        )


@contextmanager
def gateway_process(setting: Setting) -> Iterator[str]:
    """`apprentice serve` on a free port in a process of its own; yields its address once ready."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    log = setting.home / "run" / "gateway.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "apprentice_pipeline.cli", "serve", "--port", str(port)],
            env={**os.environ, **setting.environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_ready(process, f"{url}/readyz", log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _behaviour() -> FrontierSettings:
    return FrontierSettings(
        latency_ms=LATENCY_MS, jitter_ms=JITTER_MS, uncertain_share=UNCERTAIN_SHARE
    )


def _system_prompt(lines: Sequence[TrafficLine], *, every_value: bool) -> str:
    """The task in one line; a real frontier is also told the values each field takes."""
    fields = list(lines[0].answer)
    prompt = f"Classify the request as JSON: {', '.join(fields)}."
    if not every_value:
        return prompt
    for name in fields:
        values = sorted({str(line.answer[name]) for line in lines})
        if len(values) <= MOST_VALUES:
            prompt += f" {name} is one of: {', '.join(values)}."
    return prompt


def _described(keys: Mapping[str, str]) -> str:
    if not keys:
        return "no provider key is set: the stand-in frontier answers from known answers, at $0"
    names = " and ".join(KEY_VARIABLES[provider] for provider in keys)
    return f"using {names}: the real provider answers, and is paid for both waves"


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_up(url, timeout_s=2.0):
            return
        time.sleep(0.1)
    tail = log.read_text(errors="replace").splitlines()[-3:]
    raise ServingError("the gateway did not start: " + " / ".join(tail), remedy=f"see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
