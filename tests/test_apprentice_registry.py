"""A deployment of plain Python alone follows the registry, and certifies anew what is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from apprentice_pipeline import Apprentice
from apprentice_pipeline.routing.champion import control_of
from apprentice_pipeline.stages import artifact, promotion
from apprentice_pipeline.store.state import State

pytestmark = pytest.mark.timeout(1_200)
STREAM = ("default", "tickets")


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def version_in_force(state: State) -> int | None:
    champion = control_of(state.control(*STREAM)).champion
    return champion.version if champion is not None else None


def test_an_alias_moved_in_mlflow_and_a_calibration_that_is_due_take_effect(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    """Nothing else runs on this home: no gateway, no Dagster."""
    from mlflow import MlflowClient

    home = fork(distilled)
    home.configure(home.file.read_text() + "serving: {registry_poll_s: 0.2}\n")
    with home.pipeline() as pipeline:
        state = pipeline.workspace.state
        artifact.pack_and_sign(pipeline.workspace, *STREAM)
        assert promotion.register(pipeline.workspace, pipeline.registry, *STREAM).version == 2
        uri = pipeline.registry.tracking_uri
        with Apprentice.from_config(environment=home.environment):
            MlflowClient(uri, uri).set_registered_model_alias("default.tickets", "champion", "1")
            until(lambda: version_in_force(state) == 1)
            due = control_of(state.control(*STREAM))
            state.update_control(
                *STREAM, lambda text: replace(control_of(text), recalibration_due=True).to_json()
            )
            until(lambda: not control_of(state.control(*STREAM)).recalibration_due)
            assert control_of(state.control(*STREAM)).calibrations == due.calibrations + 1
