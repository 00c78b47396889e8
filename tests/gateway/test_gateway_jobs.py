"""A distillation over HTTP, from captured pairs nobody has verified to the artifact, for real."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.workspace import Workspace
from tests.conftest import SMALL, put_pairs

pytestmark = pytest.mark.timeout(600)
START = "/v1/specialists/auto-distill"


def opened(home: Path) -> Workspace:
    environment = {
        "APPRENTICE_HOME": str(home),
        "APPRENTICE_CONFIG": str(home.parent / "apprentice.yaml"),
    }
    return Workspace.open(load_settings(environment))


def test_captured_pairs_become_an_artifact_that_verifies(serve: Any, ask: Any) -> None:
    """Pending pairs count: the job verifies them first. Two posts at once are one job."""
    import yaml

    served = serve(**yaml.safe_load(SMALL))
    workspace = opened(served.home)
    put_pairs(workspace, 20)
    too_few = ask(served.url, START, {"namespace": "tickets"})
    assert too_few.status == 409
    assert (too_few.json()["pairs"], too_few.json()["next_step"]) == (20, "")
    put_pairs(workspace, 100, skip=20)
    with ThreadPoolExecutor(2) as pool:
        posts = [pool.submit(ask, served.url, START, {"namespace": "tickets"}) for _ in range(2)]
        answers = [post.result() for post in posts]
    assert [answer.status for answer in answers] == [202, 202]
    (job_id,) = {answer.json()["job_id"] for answer in answers}
    assert [job.id for job in workspace.state.jobs("default")] == [job_id]
    workspace.close()
    early = ask(served.url, f"/v1/specialists/{job_id}/artifact")
    assert early.status == 409
    seen = []
    end = time.monotonic() + 300
    while (job := ask(served.url, f"/v1/specialists/{job_id}").json())["state"] != "done":
        seen.append(job["state"])
        assert job["state"] in ("queued", "running"), job["log"]
        assert time.monotonic() < end, job["log"]
        time.sleep(0.2)
    assert "running" in seen
    assert job["result"]["trained_pairs"] >= 60
    artifact = ask(served.url, f"/v1/specialists/{job_id}/artifact")
    assert artifact.header("content-type") == "application/zip"
    verified = ask(served.url, "/v1/artifacts/verify", artifact.body, method="POST")
    assert verified.status == 200
    assert verified.json()["namespace"] == "tickets"
    assert verified.json()["digest"] == job["result"]["digest"]
