"""The control plane's routes as one table: path, method, who may, what it takes and gives.

Belongs here: the table. Does not: the handlers (`routes`, one for each name), the captures
(`capture`). Routing, rights and the OpenAPI document are all made from it: a route that is not
here does not exist, and one that is here cannot forget to ask for a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apprentice_pipeline.apprentice import Result
from apprentice_pipeline.gateway import bodies, exports, metrics
from apprentice_pipeline.stages.readiness import Readiness
from apprentice_pipeline.stages.report import Status

JSON = "application/json"
BINARY: Mapping[str, Any] = {"type": "string", "format": "binary"}
TEXT: Mapping[str, Any] = {"type": "string"}

Content = Mapping[str, Any]
"""By media type: a model, several models that are all in one object (a tuple), or a schema."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. `name` is its handler's; `roles` are the keys that may, none: no key needed.

    `answers` are its successes, by status; `refusals` the statuses of `Failure` besides 401,
    403 and 503, which every operation with roles has.
    """

    method: str
    path: str
    name: str
    summary: str
    roles: tuple[str, ...]
    answers: Mapping[int, Content]
    refusals: tuple[int, ...] = ()
    query: type[bodies.Form] | None = None
    body: Content = field(default_factory=dict)
    headers: tuple[str, ...] = ()


def _json(model: Any) -> Content:
    return {JSON: model}


TENANT = ("tenant",)
OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/openapi.json", "openapi", "This document", (), {200: _json({})}),
    Operation("GET", "/healthz", "healthz", "The process answers", (), {200: _json(bodies.Health)}),
    Operation(
        "GET", "/readyz", "readyz", "The state database answers and the spool keeps up", (),
        {200: _json(bodies.Ready), 503: _json(bodies.Ready)},
    ),
    Operation(
        "GET", "/metrics", "metrics", "Prometheus metrics; tenants by name for an operator only",
        ("tenant", "operator"), {200: {metrics.MEDIA_TYPE: TEXT}},
    ),
    Operation(
        "GET", "/v1/labels/synthesize-corpus", "labels", "The labelled pairs, streamed", TENANT,
        {200: dict.fromkeys(exports.CONTENT_TYPES.values(), BINARY)}, (400,),
        query=bodies.CorpusQuery,
    ),
    Operation(
        "POST", "/v1/specialists/auto-distill", "distill", "Start a distillation", TENANT,
        {202: _json(bodies.JobStarted), 409: _json((bodies.Failure, Readiness))}, (400, 413),
        body=_json(bodies.Distillation),
    ),
    Operation(
        "GET", "/v1/specialists/{job_id}", "job", "A distillation's state and log", TENANT,
        {200: _json(bodies.JobState)}, (404,),
    ),
    Operation(
        "GET", "/v1/specialists/{job_id}/artifact", "job_artifact", "The `.kolm` it made", TENANT,
        {200: {"application/zip": BINARY}}, (404, 409),
    ),
    Operation(
        "POST", "/v1/tasks/{task}", "task", "One input through the router",
        ("tenant", "capture"), {200: _json(Result)}, (400, 404, 409, 413, 429, 502),
        body=_json(bodies.TaskInput),
        headers=("x-apprentice-pair-id", "x-apprentice-served-by"),
    ),
    Operation(
        "POST", "/v1/artifacts/verify", "verify", "Verify a `.kolm`", TENANT,
        {200: _json(bodies.Verification), 422: _json(bodies.Rejection)}, (413,),
        body={"application/octet-stream": BINARY},
    ),
    Operation(
        "POST", "/v1/feedback", "feedback", "Approve, reject or correct a pair", TENANT,
        {200: _json(bodies.FeedbackTaken)}, (400, 404, 413), body=_json(bodies.Feedback),
    ),
    Operation(
        "GET", "/v1/status", "status", "Phase, agreement, sampling, cost and alerts", TENANT,
        {200: _json(Status)}, (400,), query=bodies.StatusQuery,
    ),
    Operation(
        "GET", "/v1/report", "report", "Every stream's numbers", TENANT,
        {200: {JSON: Status, "text/plain": TEXT, "text/html": TEXT}}, (400,),
        query=bodies.ReportQuery,
    ),
)  # fmt: skip
