"""The demo: the whole product on this machine, end to end, in the order a team would live it.

Here: the steps and their order. Not here: any step's own work; each is a call that users make
too. Promise: nothing is shown that did not happen. The stand-in frontier answers where no
provider key is set; with one, the real provider does, and is paid.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apprentice_pipeline.demo.report import DemoReport
from apprentice_pipeline.demo.samples import sample_path
from apprentice_pipeline.demo.setting import Stage, frontier_setting, gateway_process
from apprentice_pipeline.demo.traffic import TrafficLine, read_traffic, split_waves
from apprentice_pipeline.demo.wave import Reply, Target, send_wave
from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.orchestration.runs import tick_threshold_sensor
from apprentice_pipeline.serving.opening import open_backend
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages import capture, promotion, readiness
from apprentice_pipeline.stages.artifact import verify_file
from apprentice_pipeline.stages.report import status
from apprentice_pipeline.stages.results import RegisteredModel, ScoredAdapter, load, load_if_any
from apprentice_pipeline.store.workspace import Workspace

SECOND_SHARE = 1 / 4
FIRST_THREADS = 16
SECOND_THREADS = 6
MOST_TICKS = 6
SETTLE_SECONDS = 60.0
LOAD_SECONDS = 240.0
TENANT = "default"

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]


@dataclass(slots=True)
class Clock:
    """Seconds by stage, in the order they ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times one stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)


def run_demo(
    environment: Mapping[str, str],
    *,
    traffic: Path | None,
    test: Path | None,
    base_model: str | None,
    say: Say,
    progress: Progress,
) -> DemoReport:
    """Runs it. Raises: TrafficError, TooFewPairs, GateRefused, every refusal on the way."""
    settings = load_settings(environment)
    first, second = read_waves(traffic, test, settings.home.root / "demo")
    if base_model:
        resolve_base(base_model)
    clock = Clock()
    with ExitStack() as stack:
        with clock.stage("start"):
            setting = stack.enter_context(frontier_setting(settings, [*first, *second], base_model))
            say(setting.described)
            url = stack.enter_context(gateway_process(setting))
            pipeline = Pipeline(setting.environment, base_model=base_model, progress=progress)
            workspace = pipeline.workspace
            stack.callback(workspace.close)
            stage = setting.stage(workspace, url)
        with clock.stage("first wave"):
            say(f"first wave: {len(first)} requests through the gateway at {url}")
            _send(stage.target, first, FIRST_THREADS, "first wave", progress)
            _await_pairs(workspace, stage, len(first))
        say(readiness.of_stream(workspace, TENANT, stage.namespace).text())
        with clock.stage("distill"):
            _distill(pipeline, stage, say)
        scored = load(workspace, TENANT, stage.namespace, ScoredAdapter)
        registered = load(workspace, TENANT, stage.namespace, RegisteredModel)
        with clock.stage("verify artifact"):
            verify_file(workspace, registered.path)
            say(f"verified {registered.path}")
        with clock.stage("promote"):
            _promote(workspace, stage.namespace, registered)
            say(f"version {registered.version} is champion; it starts in shadow")
            _await_local(workspace, stage.namespace)
        with clock.stage("second wave"):
            say(f"second wave: {len(second)} new requests, now routed")
            replies = _send(stage.target, second, SECOND_THREADS, "second wave", progress)
            _await_pairs(workspace, stage, len(first) + len(second))
        found = status(workspace, TENANT, stage.namespace)
        return DemoReport.of(
            found, scored, registered, replies, clock.seconds, setting, workspace.settings
        )


def read_waves(
    traffic: Path | None, test: Path | None, scratch: Path
) -> tuple[list[TrafficLine], list[TrafficLine]]:
    """Both waves: the files given, else the project's own samples. Raises: TrafficError."""
    lines = read_traffic(traffic or sample_path(scratch))
    if test is not None:
        return lines, read_traffic(test)
    return split_waves(lines, SECOND_SHARE, seed=17)


def _send(
    target: Target, lines: Sequence[TrafficLine], threads: int, name: str, progress: Progress
) -> list[Reply]:
    return send_wave(
        target,
        lines,
        threads=threads,
        progress=lambda done: progress(name, done, len(lines), ""),
    )


def _distill(pipeline: Pipeline, stage: Stage, say: Say) -> None:
    """Lets the sensor look until its runs have registered a model, or say why they cannot."""
    workspace = pipeline.workspace
    for _ in range(MOST_TICKS):
        started = tick_threshold_sensor(pipeline, TENANT, stage.namespace)
        for job in started:
            say(f"pair_threshold_sensor → {job}")
        if load_if_any(workspace, TENANT, stage.namespace, RegisteredModel) is not None:
            return
        if not started:
            readiness.require_ready(readiness.of_stream(workspace, TENANT, stage.namespace))
    raise ServingError(
        "the sensor's runs registered no model", remedy="see them in Dagster: `apprentice dev`"
    )


def _promote(workspace: Workspace, namespace: str, registered: RegisteredModel) -> None:
    """What `serving.promotion: auto` has done already, a person does under `review`."""
    if registered.alias != "champion":
        promotion.promote(workspace, TENANT, namespace, registered.version)


def _await_pairs(workspace: Workspace, stage: Stage, wanted: int) -> None:
    """Until the lake holds every exchange of the wave: what was delivered was committed before."""
    _await(lambda: _drained(workspace, stage) >= wanted, f"{wanted} pairs in the lake")


def _drained(workspace: Workspace, stage: Stage) -> int:
    return sum(
        capture.collect(workspace, TENANT, stage.namespace, day).exchanges for day in stage.days()
    )


def _await_local(workspace: Workspace, namespace: str) -> None:
    """Until the local backend holds the champion, so that the wave meets it warm."""
    champion = workspace.state.champion(TENANT, namespace)
    assert champion is not None

    async def ready() -> tuple[bool, str]:
        backend = open_backend(workspace)
        try:
            loaded = await backend.ready(champion, wait_s=LOAD_SECONDS)
            return loaded, backend.refusal(champion) or f"not within {LOAD_SECONDS:.0f} s"
        finally:
            await backend.close()

    loaded, why = asyncio.run(ready())
    if not loaded:
        raise ServingError(
            f"the local backend did not load the champion: {why}",
            remedy="see the gateway's log under the home's run folder",
        )


def _await(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise ServingError(
                f"waited {SETTLE_SECONDS:.0f} s for {what}",
                remedy="see the gateway's log under the home's run folder",
            )
        time.sleep(0.5)
