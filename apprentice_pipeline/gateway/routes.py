"""The control plane: every HTTP route of the contract but the captures.

Belongs here: parse, check rights, call a stage, answer. Does not: any stage's work.
Errors are `{"error": {"message", "type", "remedy"}}` with the status of their kind. `healthz`
and `readyz` need no key: they tell nothing but that the process runs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from apprentice_pipeline.artifact.kolm import VerifiedArtifact, verify_kolm
from apprentice_pipeline.artifact.kolm import report as verification_report
from apprentice_pipeline.artifact.signing import trusted_key
from apprentice_pipeline.errors import (
    ApprenticeError,
    ArtifactError,
    BudgetExhausted,
    PriceUnknown,
    RemoteError,
    StoreError,
    TooFewPairs,
    UsageError,
    VaultError,
)
from apprentice_pipeline.gateway import exports, jobs, metrics
from apprentice_pipeline.gateway.access import Access, Caller, Refusal
from apprentice_pipeline.gateway.headers import read_headers
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.tasks import Apprentices
from apprentice_pipeline.records import is_name
from apprentice_pipeline.stages import export, labelling, readiness, report
from apprentice_pipeline.store.journal import Job
from apprentice_pipeline.store.workspace import Workspace

FEEDBACK_TRIES, FEEDBACK_PAUSE_S = 8, 0.4
_STATUS: tuple[tuple[type[ApprenticeError], int], ...] = (
    (UsageError, 400),
    (TooFewPairs, 409),
    (BudgetExhausted, 429),
    (PriceUnknown, 409),
    (ArtifactError, 422),
    (RemoteError, 502),
    (StoreError, 503),
    (VaultError, 503),
)


class ControlPlane:
    """The routes of one worker."""

    def __init__(
        self,
        workspace: Workspace,
        access: Access,
        tally: Tally,
        counted: metrics.Metrics,
        apprentices: Apprentices,
        pending: Callable[[], int],
    ) -> None:
        self._workspace = workspace
        self._access = access
        self._tally = tally
        self._metrics = counted
        self._apprentices = apprentices
        self._pending = pending

    def application(self) -> Starlette:
        """The Starlette application."""
        return Starlette(
            routes=[
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
                Route("/v1/labels/synthesize-corpus", self.labels),
                Route("/v1/specialists/auto-distill", self.distill, methods=["POST"]),
                Route("/v1/specialists/{job_id}", self.job),
                Route("/v1/specialists/{job_id}/artifact", self.job_artifact),
                Route("/v1/tasks/{task}", self.task, methods=["POST"]),
                Route("/v1/artifacts/verify", self.verify, methods=["POST"]),
                Route("/v1/feedback", self.feedback, methods=["POST"]),
                Route("/v1/status", self.status),
                Route("/v1/report", self.report),
            ],
            exception_handlers={
                ApprenticeError: _failed,
                ClientDisconnect: _gone,
                404: _missing,
                405: _wrong_method,
                500: _unexpected,
            },
        )

    async def healthz(self, _: Request) -> Response:
        """The process answers."""
        return _json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """The state database answers and the spool keeps up."""
        try:
            await run_in_threadpool(self._workspace.state.any_keys)
        except StoreError:
            return _json({"status": "the state database does not answer"}, 503)
        return _json({"status": "ready", "pending": self._pending()})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text; tenants by name only for an operator key."""
        caller = await self._caller(request, "tenant", "operator")
        await self._tally.flush_aside()
        text = await run_in_threadpool(self._metrics.exposition, tenants=caller.role == "operator")
        return Response(text, headers={"content-type": metrics.CONTENT_TYPE})

    async def labels(self, request: Request) -> Response:
        """The corpus, streamed."""
        caller = await self._caller(request, "tenant")
        query = request.query_params
        form = query.get("format", "jsonl")
        if form not in exports.CONTENT_TYPES:
            raise UsageError("format is jsonl or parquet")
        wanted = export.Request(
            tenant=caller.tenant,
            namespace=_name(query.get("namespace"), "namespace"),
            form=form,
            since=query.get("since"),
            until=query.get("until"),
            min_confidence=_number(query.get("min_confidence"), "min_confidence"),
            limit=_whole(query.get("limit"), "limit"),
        )
        body = exports.pieces(self._workspace, wanted)
        first = await anext(body)
        return StreamingResponse(
            exports.led_by(first, body), headers={"content-type": exports.CONTENT_TYPES[form]}
        )

    async def distill(self, request: Request) -> Response:
        """202 with the job's id, 409 with the counts."""
        caller = await self._caller(request, "tenant")
        asked = await _object(request)
        namespace = _name(asked.get("namespace"), "namespace")
        try:
            job = await run_in_threadpool(
                jobs.start, self._workspace, caller.tenant, namespace, asked
            )
        except TooFewPairs as error:
            stream = await run_in_threadpool(
                readiness.of_stream, self._workspace, caller.tenant, namespace
            )
            return _json({**_error(error), **stream.to_dict()}, 409)
        return _json({"job_id": job.id, "state": job.state, "namespace": namespace}, 202)

    async def job(self, request: Request) -> Response:
        """A job's state, log and result."""
        return _json(jobs.document(await self._job(request)))

    async def job_artifact(self, request: Request) -> Response:
        """The `.kolm` a finished job made."""
        job = await self._job(request)
        path = job.result.get("artifact")
        if job.state != "done" or not isinstance(path, str):
            raise Refusal(409 if job.state in jobs.ACTIVE else 404, "the job has no artifact")
        name = f"{job.namespace}.kolm"
        return FileResponse(path, media_type="application/zip", filename=name)

    async def task(self, request: Request) -> Response:
        """One request through the router."""
        caller = await self._caller(request, "tenant", "capture")
        task = caller.stream(request.path_params["task"])
        asked = await _object(request)
        if not isinstance(asked.get("input"), dict):
            raise UsageError("the body must be an object with an object `input`")
        if self._workspace.config.task(task) is None:
            raise Refusal(404, f"no task {task} is declared")
        result = await self._apprentices.run(caller.tenant, task, asked["input"])
        response = _json(dataclasses.asdict(result))
        response.headers["x-apprentice-pair-id"] = result.pair_id
        response.headers["x-apprentice-served-by"] = result.served_by
        return response

    async def verify(self, request: Request) -> Response:
        """What there is to say of a `.kolm` that verifies; 422 with the cause otherwise."""
        await self._caller(request, "tenant")
        body = await _body(request, self._workspace.config.gateway.max_body_bytes)
        try:
            verified = await run_in_threadpool(self._verified, body)
        except ArtifactError as error:
            return _json({"verified": False, **_error(error)}, 422)
        return _json(verification_report(verified))

    def _verified(self, body: bytes) -> VerifiedArtifact:
        settings = self._workspace.settings
        pinned = settings.config.signing.public_key
        key = trusted_key(settings.home.keys, public_key=pinned)
        return verify_kolm(body, public_key=key, secret=settings.signing_secret)

    async def feedback(self, request: Request) -> Response:
        """A person's label of a pair; waits a moment for a pair that has just been captured."""
        caller = await self._caller(request, "tenant")
        asked = await _object(request)
        pair_id, action = asked.get("pair_id"), asked.get("action")
        if not isinstance(pair_id, str) or action not in labelling.ACTIONS:
            raise UsageError(
                "feedback needs pair_id and action",
                remedy="action is approve, reject, or edit with `edit`, the corrected output",
            )
        for left in reversed(range(FEEDBACK_TRIES)):
            try:
                label = await run_in_threadpool(
                    labelling.record_feedback,
                    self._workspace,
                    caller.tenant,
                    pair_id,
                    action=action,
                    edit=asked.get("edit"),
                )
            except UsageError as error:
                if not left:
                    raise Refusal(404, error.message, remedy=error.remedy) from None
                await asyncio.sleep(FEEDBACK_PAUSE_S)
                continue
            return _json({"pair_id": pair_id, "namespace": label.namespace, "action": label.action})
        raise AssertionError("unreachable: the last try returns or raises")

    async def status(self, request: Request) -> Response:
        """Phase, confidence, sampling, cost, savings, alerts."""
        caller = await self._caller(request, "tenant")
        task = request.query_params.get("task")
        found = await run_in_threadpool(
            report.status, self._workspace, caller.tenant, _name(task, "task") if task else None
        )
        return _json(found.to_dict())

    async def report(self, request: Request) -> Response:
        """Every stream's numbers, as JSON, text or HTML."""
        caller = await self._caller(request, "tenant")
        form = request.query_params.get("format", "json")
        if form not in {"json", "text", "html"}:
            raise UsageError("format is json, text or html")
        found = await run_in_threadpool(report.report, self._workspace, caller.tenant)
        if form == "json":
            return _json(found.to_dict())
        kind = "text/html" if form == "html" else "text/plain"
        return Response(found.render(form), media_type=kind)

    async def _caller(self, request: Request, *roles: str) -> Caller:
        caller = await self._access.admit(read_headers(request.scope["headers"]))
        caller.require(*roles)
        return caller

    async def _job(self, request: Request) -> Job:
        caller = await self._caller(request, "tenant")
        job_id = request.path_params["job_id"]
        job = await run_in_threadpool(self._workspace.state.job, job_id, tenant=caller.tenant)
        if job is None:
            raise Refusal(404, "no such job")
        return await run_in_threadpool(jobs.current, self._workspace, job)


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refusal(413, "the body is larger than this gateway takes")
        parts.append(part)
    return b"".join(parts)


async def _object(request: Request) -> dict[str, Any]:
    body = await _body(request, 8_000_000)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise UsageError("the body must be a JSON object")
    return value


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not is_name(value):
        raise UsageError(f"{what} must be a name", remedy="[a-z0-9][a-z0-9_-]{0,62}")
    return value


def _number(value: str | None, what: str) -> float | None:
    try:
        number = None if value is None else float(value)
    except ValueError:
        number = -1.0
    if number is not None and not 0 <= number <= 1:
        raise UsageError(f"{what} must be a number from 0 to 1")
    return number


def _whole(value: str | None, what: str) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or not int(value):
        raise UsageError(f"{what} must be a whole number above 0")
    return int(value)


def _json(value: Any, status: int = 200) -> Response:
    return Response(
        orjson.dumps(value, default=str), status, headers={"content-type": "application/json"}
    )


def _error(error: ApprenticeError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": type(error).__name__,
            "remedy": error.remedy,
        }
    }


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApprenticeError)
    if isinstance(error, Refusal):
        return _json(_error(error), error.status)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _json(_error(error), status)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _missing(_: Request, __: Exception) -> Response:
    return _json(_error(Refusal(404, "there is nothing here")), 404)


async def _wrong_method(_: Request, __: Exception) -> Response:
    return _json(_error(Refusal(405, "this path has another method")), 405)


async def _unexpected(_: Request, error: Exception) -> Response:
    return _json(_error(ApprenticeError(f"unexpected {type(error).__name__}")), 500)
