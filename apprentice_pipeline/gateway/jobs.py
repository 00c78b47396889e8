"""Distillation asked for over HTTP, run by a process of its own.

Belongs here: starting the runner, what the runner writes into the job, whether it still lives.
Does not: distilling (`apprentice distill` does, as from a terminal).

    python -m apprentice_pipeline.gateway.jobs JOB_ID

Its settings come on standard input, and it hands the command's environment over in the same way:
no process shows a key in its environment. The runner outlives the worker that started it, holds a
lock while it lives, keeps the job's log and result, and marks it done or failed. A job whose
runner died is found failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.gateway.metrics import FOLDER_VARIABLE
from apprentice_pipeline.records import now_us
from apprentice_pipeline.settings import Home, Settings
from apprentice_pipeline.stages import readiness
from apprentice_pipeline.store.handover import handed_over, shown, taken_over
from apprentice_pipeline.store.journal import ACTIVE, Job
from apprentice_pipeline.store.secrecy import keep_memory_private
from apprentice_pipeline.store.workspace import Workspace

KIND = "distill"
START_US = 30_000_000
_PART = r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
BASE_MODEL = re.compile(f"{_PART}(/{_PART})?")
"""A base model named from outside is a name, never a path."""
TARGET_SIZE = re.compile(r"[0-9]+(\.[0-9]+)? ?([kKmMgG]i?)?[bB]?")


def start(workspace: Workspace, tenant: str, namespace: str, request: Mapping[str, Any]) -> Job:
    """A new distillation, or the one of this stream that is under way.

    The runner verifies what is pending first, as the command does: pairs that wait for it count.
    Raises: TooFewPairs with the counts; UsageError for a base model or size that is none.
    """
    options = _options(request)
    for job in workspace.state.jobs(tenant, namespace):
        if job.kind == KIND and current(workspace, job).state in ACTIVE:
            return job
    stream = readiness.of_stream(workspace, tenant, namespace)
    readiness.require_ready(stream, once_verified=True)
    job, new = workspace.state.start_job(
        tenant=tenant, namespace=namespace, kind=KIND, request=options, now_us=now_us()
    )
    if new:
        _run_aside(workspace, job)
    return job


def _run_aside(workspace: Workspace, job: Job) -> None:
    """Starts the job's runner, a process that outlives this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "apprentice_pipeline.gateway.jobs", job.id],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_shown(workspace.settings),
        start_new_session=True,
    )
    _hand(process, handed_over(workspace.settings))
    threading.Thread(target=process.wait, name="job", daemon=True).start()  # leaves no zombie


def current(workspace: Workspace, job: Job) -> Job:
    """The job as it stands; one whose runner is gone is marked failed."""
    if job.state not in ACTIVE or now_us() - job.updated_at_us < START_US:
        return job
    if (lock := _lock(workspace.home, job.id)) is None:
        return job
    os.close(lock)
    newest = workspace.state.job(job.id)
    if newest is not None and newest.state not in ACTIVE:  # it has just ended
        return newest
    return workspace.state.update_job(
        job.id, state="failed", log="the runner ended without a result\n", now_us=now_us()
    )


def document(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    return {
        "job_id": job.id,
        "namespace": job.namespace,
        "state": job.state,
        "request": job.request,
        "result": job.result,
        "log": job.log,
        "created_at_us": job.created_at_us,
        "updated_at_us": job.updated_at_us,
    }


def environment(settings: Settings) -> dict[str, str]:
    """The environment a child process needs to open the same workspace, secrets among it."""
    return _placed(settings, settings.environment)


def _shown(settings: Settings) -> dict[str, str]:
    """The part of `environment` that others may read."""
    return _placed(settings, shown(settings))


def _placed(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    variables = {name: value for name, value in given.items() if name != FOLDER_VARIABLE}
    variables["APPRENTICE_HOME"] = str(settings.home.root)
    if settings.source != "defaults":
        variables["APPRENTICE_CONFIG"] = str(Path(settings.source).absolute())
    return variables


def _hand(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Writes the line that a child starts from; one that is dead already is found dead later."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line)
        process.stdin.close()


def main(job_id: str, source: BinaryIO) -> int:
    """Runs one queued job to its end, with the settings that `source` holds. Returns the exit
    status."""
    keep_memory_private()
    settings, _ = taken_over(source.readline())
    workspace = Workspace.open(settings)
    lock = _lock(settings.home, job_id)
    job = workspace.state.job(job_id)
    if lock is None or job is None or job.state != "queued":
        return 1
    try:
        return _run(workspace, job)
    finally:
        os.close(lock)
        _lock_file(settings.home, job_id).unlink(missing_ok=True)
        workspace.close()


def _run(workspace: Workspace, job: Job) -> int:
    state = workspace.state
    state.update_job(job.id, state="running", now_us=now_us())
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "apprentice_pipeline.cli.handed", *_arguments(job)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.PIPE,
            env=_shown(workspace.settings),
        )
        _hand(process, orjson.dumps(environment(workspace.settings)) + b"\n")
        assert process.stderr is not None
        for line in process.stderr:
            text = line.decode("utf-8", "replace")
            state.update_job(job.id, log=text, now_us=now_us())
        failed = process.wait() != 0
        said.seek(0)
        result = _result(said.read())
    state.update_job(job.id, state="failed" if failed else "done", result=result, now_us=now_us())
    return process.returncode


def _arguments(job: Job) -> list[str]:
    arguments = ["distill", "--namespace", job.namespace, "--tenant", job.tenant, "--json"]
    for name in ("base_model", "target_size"):
        if value := job.request.get(name):
            arguments.append(f"--{name.replace('_', '-')}={value}")
    return arguments


def _result(said: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(said)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _options(request: Mapping[str, Any]) -> dict[str, str]:
    """Raises: UsageError."""
    options: dict[str, str] = {}
    for name, pattern in (("base_model", BASE_MODEL), ("target_size", TARGET_SIZE)):
        value = request.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise UsageError(f"{name} is not one", remedy="for example embedded, 50MB")
        options[name] = value
    return options


def _lock_file(home: Home, job_id: str) -> Path:
    return home.run / f"job-{job_id}.lock"


def _lock(home: Home, job_id: str) -> int | None:
    """The runner's lock, None while another process holds it."""
    descriptor = os.open(_lock_file(home, job_id), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin.buffer))
