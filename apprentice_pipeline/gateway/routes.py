"""The control plane: every HTTP route of the contract but the captures.

Belongs here: parse, call a stage, answer. Does not: any stage's work; paths, rights and forms
(`operations` has them, and a caller has been admitted and has the role before its handler runs).
Errors are `{"error": {"message", "type", "remedy"}}` with the status of their kind. `healthz`,
`readyz` and `openapi.json` need no key: they tell nothing but that the process runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
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
    ServingError,
    StoreError,
    TooFewPairs,
    UsageError,
    VaultError,
    WireError,
)
from apprentice_pipeline.gateway import bodies, exports, jobs, metrics, openapi
from apprentice_pipeline.gateway.access import Access, Caller, Refusal
from apprentice_pipeline.gateway.headers import read_headers
from apprentice_pipeline.gateway.observing import OBSERVED
from apprentice_pipeline.gateway.operations import OPERATIONS, Operation
from apprentice_pipeline.gateway.refusals import RETRY_AFTER_S
from apprentice_pipeline.gateway.tally import Tally
from apprentice_pipeline.gateway.tasks import Apprentices
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import export, labelling, readiness, report
from apprentice_pipeline.store.journal import ACTIVE, Job
from apprentice_pipeline.store.rounds import MAINTENANCE, Round
from apprentice_pipeline.store.workspace import Workspace

FEEDBACK_TRIES, FEEDBACK_PAUSE_S = 8, 0.4
JUST_CAPTURED_US = 60_000_000
MOST_JSON_BYTES = 8_000_000
_PAIR_ID = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

Handler = Callable[[Request, Caller], Awaitable[Response]]

_STATUS: tuple[tuple[type[ApprenticeError], int], ...] = (
    (UsageError, 400),
    (TooFewPairs, 409),
    (BudgetExhausted, 429),
    (PriceUnknown, 409),
    (ArtifactError, 422),
    (RemoteError, 502),
    (WireError, 502),
    (ServingError, 503),
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
        application = Starlette(
            routes=[
                Route(each.path, self._endpoint(each), methods=[each.method], name=each.name)
                for each in OPERATIONS
            ],
            exception_handlers={
                ApprenticeError: _failed,
                ClientDisconnect: _gone,
                404: _missing,
                405: _wrong_method,
                500: _unexpected,
            },
        )
        application.router.redirect_slashes = False  # a redirect would name the Host it was told
        return application

    def _endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """The operation's handler behind its rights."""
        handle = getattr(self, operation.name)

        async def endpoint(request: Request) -> Response:
            seen = request.scope.get(OBSERVED)
            if seen is not None:
                seen.endpoint = operation.name
            response: Response
            if not operation.roles:
                response = await handle(request)
                return response
            caller = await self._access.admit(read_headers(request.scope["headers"]))
            if seen is not None:
                seen.tenant = caller.tenant
            caller.require(*operation.roles)
            response = await handle(request, caller)
            return response

        return endpoint

    async def openapi(self, _: Request) -> Response:
        """This application's own description."""
        return Response(openapi.document(), headers={"content-type": "application/json"})

    async def healthz(self, _: Request) -> Response:
        """The process answers."""
        return _form(bodies.Health())

    async def readyz(self, _: Request) -> Response:
        """The state database answers and the spool keeps up."""
        try:
            await run_in_threadpool(self._workspace.state.any_keys)
        except StoreError:
            return _form(bodies.Ready(status="the state database does not answer"), 503)
        return _form(bodies.Ready(status="ready", pending=self._pending()))

    async def metrics(self, _: Request, caller: Caller) -> Response:
        """Prometheus text; tenants by name only for an operator key; a tenant key's own counts."""
        await self._tally.flush_aside()
        operator = caller.role == "operator"
        of = None if operator or caller.keyless else caller.tenant
        text = await run_in_threadpool(self._metrics.exposition, tenants=operator, of=of)
        if of is None:
            with contextlib.suppress(ApprenticeError):  # no state: the workers' own still stand
                text += await run_in_threadpool(self._upkeep)
        return Response(text, headers={"content-type": metrics.CONTENT_TYPE})

    def _upkeep(self) -> bytes:
        return metrics.of_rounds(self._workspace.state.rounds.find(MAINTENANCE) or Round())

    async def labels(self, request: Request, caller: Caller) -> Response:
        """The corpus, streamed."""
        asked = bodies.read_query(bodies.CorpusQuery, request.query_params.multi_items())
        wanted = export.Request(
            tenant=caller.tenant,
            namespace=asked.namespace,
            form=asked.format,
            style=asked.style,
            since=asked.since,
            until=asked.until,
            min_confidence=asked.min_confidence,
            limit=asked.limit,
        )
        export.check(wanted)  # before the first byte, while it can still be refused
        body = exports.pieces(self._workspace, wanted)
        first = await anext(body)
        return StreamingResponse(
            exports.led_by(first, body),
            headers={"content-type": exports.CONTENT_TYPES[asked.format]},
        )

    async def distill(self, request: Request, caller: Caller) -> Response:
        """202 with the job's id, 409 with the counts."""
        asked = await _asked(request, bodies.Distillation)
        options = asked.model_dump(exclude_none=True)
        try:
            job = await run_in_threadpool(
                jobs.start, self._workspace, caller.tenant, asked.namespace, options
            )
        except TooFewPairs as error:
            stream = await run_in_threadpool(
                readiness.of_stream, self._workspace, caller.tenant, asked.namespace
            )
            return _json({**_error(error), **stream.to_dict()}, 409)
        started = bodies.JobStarted(job_id=job.id, state=job.state, namespace=asked.namespace)
        return _form(started, 202)

    async def job(self, request: Request, caller: Caller) -> Response:
        """A job's state, log and result."""
        return _form(bodies.JobState(**jobs.document(await self._job(request, caller))))

    async def job_artifact(self, request: Request, caller: Caller) -> Response:
        """The `.kolm` a finished job made."""
        job = await self._job(request, caller)
        path = job.result.get("artifact")
        if job.state != "done" or not isinstance(path, str):
            raise Refusal(409 if job.state in ACTIVE else 404, "the job has no artifact")
        name = f"{job.namespace}.kolm"
        return FileResponse(path, media_type="application/zip", filename=name)

    async def task(self, request: Request, caller: Caller) -> Response:
        """One request through the router."""
        task = caller.stream(request.path_params["task"])
        asked = await _asked(request, bodies.TaskInput)
        if self._workspace.config.task(task) is None:
            raise Refusal(404, f"no task {task} is declared")
        result = await self._apprentices.run(caller.tenant, task, asked.input)
        response = _json(dataclasses.asdict(result))
        response.headers["x-apprentice-pair-id"] = result.pair_id
        response.headers["x-apprentice-served-by"] = result.served_by
        return response

    async def verify(self, request: Request, _: Caller) -> Response:
        """What there is to say of a `.kolm` that verifies; 422 with the cause otherwise."""
        body = await _body(request, self._workspace.config.gateway.max_body_bytes)
        try:
            verified = await run_in_threadpool(self._verified, body)
        except ArtifactError as error:
            return _form(bodies.Rejection.of(error), 422)
        return _form(bodies.Verification(**verification_report(verified)))

    def _verified(self, body: bytes) -> VerifiedArtifact:
        settings = self._workspace.settings
        pinned = settings.config.signing.public_key
        try:
            key = trusted_key(settings.home.keys, public_key=pinned)
        except ArtifactError:
            raise ArtifactError("this server has no public key to verify against") from None
        return verify_kolm(body, public_key=key, secret=settings.signing_secret)

    async def feedback(self, request: Request, caller: Caller) -> Response:
        """A person's label of a pair; waits a moment for a pair that has just been captured."""
        asked = (await _asked(request, bodies.Feedback)).root
        edit = asked.edit if isinstance(asked, bodies.Correction) else None
        tries = FEEDBACK_TRIES if _just_captured(asked.pair_id) else 1
        for left in reversed(range(tries)):
            try:
                label = await run_in_threadpool(
                    labelling.record_feedback,
                    self._workspace,
                    caller.tenant,
                    asked.pair_id,
                    action=asked.action,
                    edit=edit,
                )
            except UsageError as error:
                if not left:
                    raise Refusal(404, error.message, remedy=error.remedy) from None
                await asyncio.sleep(FEEDBACK_PAUSE_S)
                continue
            return _form(
                bodies.FeedbackTaken(
                    pair_id=label.pair_id, namespace=label.namespace, action=label.action
                )
            )
        raise AssertionError("unreachable: the last try returns or raises")

    async def status(self, request: Request, caller: Caller) -> Response:
        """Phase, confidence, sampling, cost, savings, alerts."""
        asked = bodies.read_query(bodies.StatusQuery, request.query_params.multi_items())
        found = await run_in_threadpool(
            report.status, self._workspace, caller.tenant, asked.task or None
        )
        return _json(found.to_dict())

    async def report(self, request: Request, caller: Caller) -> Response:
        """Every stream's numbers, as JSON, text or HTML."""
        form = bodies.read_query(bodies.ReportQuery, request.query_params.multi_items()).format
        found = await run_in_threadpool(report.report, self._workspace, caller.tenant)
        if form == "json":
            return _json(found.to_dict())
        kind = "text/html" if form == "html" else "text/plain"
        return Response(found.render(form), media_type=kind)

    async def _job(self, request: Request, caller: Caller) -> Job:
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


async def _asked(request: Request, model: type[bodies.T]) -> bodies.T:
    return bodies.read_body(model, await _body(request, MOST_JSON_BYTES))


def _just_captured(pair_id: str) -> bool:
    """Whether an id tells of a moment so recent that its pair may still be on its way."""
    found = _PAIR_ID.fullmatch(pair_id)
    if found is None:
        return False
    return abs(now_us() - int(found[1] + found[2], 16) * 1_000) < JUST_CAPTURED_US


def _json(value: Any, status: int = 200) -> Response:
    return Response(
        orjson.dumps(value, default=str), status, headers={"content-type": "application/json"}
    )


def _form(form: BaseModel, status: int = 200) -> Response:
    return _json(form.model_dump(mode="json", exclude_none=True), status)


def _error(error: ApprenticeError) -> dict[str, Any]:
    return bodies.Failure.of(error).model_dump()


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApprenticeError)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    status = error.status if isinstance(error, Refusal) else status
    response = _json(_error(error), status)
    if status == 401:
        response.headers["www-authenticate"] = 'Bearer realm="apprentice"'
    elif status == 503:
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _missing(_: Request, __: Exception) -> Response:
    return _json(_error(Refusal(404, "there is nothing here")), 404)


async def _wrong_method(_: Request, error: Exception) -> Response:
    response = _json(_error(Refusal(405, "this path has another method")), 405)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _unexpected(_: Request, error: Exception) -> Response:
    return _json(_error(ApprenticeError(f"unexpected {type(error).__name__}")), 500)
