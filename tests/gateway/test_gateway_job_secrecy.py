"""A distillation asked for over HTTP: its processes work, and show no key."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.gateway import jobs
from apprentice_pipeline.records import Verdict, now_us
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.workspace import Workspace

SECRETS = {
    "ANTHROPIC_API_KEY": "sk-heron-in-the-reeds",
    "APPRENTICE_MASTER_KEY": base64.b64encode(b"bittern in the marsh, thirty-two"[:32]).decode(),
    "APPRENTICE_SIGNING_SECRET": "plover-on-the-moor-signs",
}
SMALL = """\
local: {base_model: embedded, max_new_tokens: 24, fine_tune_batch_size: 30}
distill: {threshold: 60, epochs: 1, holdout_fraction: 0.2, rank: 4}
kscore: {gate: 0.0, min_fidelity: 0.0, min_holdout: 10, bootstrap: 100, non_inferiority_margin: 1.0}
verify: {fraction: 0}
"""


def children(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += [int(child) for child in tasks.read_text().split()]
    return [*found, *(each for child in found for each in children(child))]


def runners(job_id: str) -> list[int]:
    """Processes that are told to run the job."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if job_id.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.timeout(600)
def test_a_jobs_processes_show_no_key_and_open_what_is_sealed_with_it(
    home: Any, captured: Callable[..., list[Any]]
) -> None:
    home.configure(SMALL)
    with closing(Workspace.open(load_settings({**home.environment, **SECRETS}))) as workspace:
        made = captured(workspace, 120)
        at_us = now_us()
        verdicts = [
            Verdict(m.pair_id, "tickets", at_us, "v", "verified", None, 0, "") for m in made
        ]
        append_records(workspace, "default", verdicts)
        job = jobs.start(workspace, "default", "tickets", {})
        seen: dict[str, set[bytes]] = {}
        deadline = time.monotonic() + 500
        while (now := jobs.current(workspace, job)).state in jobs.ACTIVE:
            assert time.monotonic() < deadline
            for pid in [each for one in runners(job.id) for each in (one, *children(one))]:
                try:
                    name = Path(f"/proc/{pid}/cmdline").read_bytes()
                    shown = name + Path(f"/proc/{pid}/environ").read_bytes()
                    limits = Path(f"/proc/{pid}/limits").read_text()
                except OSError:
                    continue
                assert not [key for key in SECRETS.values() if key.encode() in shown], name
                (core,) = [each for each in limits.splitlines() if "core file size" in each]
                seen.setdefault(name.replace(b"\0", b" ").decode(), set()).add(
                    core.split()[4].encode()
                )
            time.sleep(0.2)
        assert now.state == "done", now.log
    commands = [name for name in seen if "gateway.jobs" in name or "cli.handed" in name]
    assert len(commands) == 2
    assert all(b"0" in seen[name] for name in commands)
