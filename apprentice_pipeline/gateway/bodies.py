"""What the control plane's routes take and give, as pydantic models.

Belongs here: queries, request bodies and the answers that no stage has a record for. Does not:
the routes (`operations`, `routes`), the providers' formats (`wire`), which the captures leave
open. The handlers read requests with these models and the OpenAPI document is made of them, so
that the one cannot say what the other does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)

from apprentice_pipeline.errors import ApprenticeError, UsageError
from apprentice_pipeline.gateway.jobs import BASE_MODEL, TARGET_SIZE
from apprentice_pipeline.records import NAME_PATTERN

MOST_ROWS = 1_000_000_000
T = TypeVar("T")

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")]
BaseModelName = Annotated[str, Field(pattern=f"^{BASE_MODEL.pattern}$", max_length=200)]
TargetSize = Annotated[str, Field(pattern=f"^{TARGET_SIZE.pattern}$", max_length=32)]
PairId = Annotated[str, Field(min_length=1, max_length=64)]
Moment = Annotated[
    str,
    WithJsonSchema(
        {"anyOf": [{"type": "string", "format": form} for form in ("date-time", "date")]}
    ),
]


def _digits(value: Any) -> Any:
    """A query's whole number is written in digits: no sign, space, point or underscore."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("must be a whole number")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
RowLimit = Annotated[int, Field(gt=0, le=MOST_ROWS), BeforeValidator(_digits)]


class Form(BaseModel):
    """A part of a request or an answer; unknown fields of a request are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class CorpusQuery(Form):
    """Which labelled pairs to export, and how."""

    namespace: Name
    format: Literal["jsonl", "parquet"] = "jsonl"
    style: Literal["pairs", "chat", "trl", "sharegpt"] = Field(
        "pairs", description="pairs: every field; the others as those tools read it"
    )
    since: Moment | None = Field(None, description="a date is its first moment, UTC")
    until: Moment | None = None
    min_confidence: Share | None = None
    limit: RowLimit | None = None


class StatusQuery(Form):
    """Which stream; all of the tenant's by default."""

    task: Name | Literal[""] | None = None


class ReportQuery(Form):
    """In which form the report comes."""

    format: Literal["json", "text", "html"] = "json"


class Distillation(Form):
    """A distillation to start. A base model is a name, never a path."""

    namespace: Name
    base_model: BaseModelName | None = Field(None, description="for example `embedded`")
    target_size: TargetSize | None = Field(None, description="for example `50MB`")


class TaskInput(Form):
    """One input of a declared task."""

    input: dict[str, Any]


class Judgement(Form):
    """A person's word on a pair."""

    pair_id: PairId
    action: Literal["approve", "reject"]


class Correction(Form):
    """A person's better output for a pair."""

    pair_id: PairId
    action: Literal["edit"]
    edit: str | bool | int | float | list[Any] | dict[str, Any]


class Feedback(RootModel[Judgement | Correction]):
    """A person's label of a pair."""


class Fault(Form):
    """What happened, its kind, and what to do next."""

    message: str
    type: str
    remedy: str


class Failure(Form):
    """Every error of the control plane."""

    error: Fault

    @classmethod
    def of(cls, error: ApprenticeError) -> Failure:
        """As an answer's body."""
        fault = Fault(message=error.message, type=type(error).__name__, remedy=error.remedy)
        return cls(error=fault)


class Health(Form):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(Form):
    """Whether the process can serve; `pending`: exchanges not committed yet."""

    status: str
    pending: int | None = None


class JobStarted(Form):
    """Where to ask for a distillation's state."""

    job_id: str
    state: str
    namespace: str


class JobState(Form):
    """A distillation: `queued`, `running`, `done` or `failed`; times in UTC microseconds."""

    job_id: str
    namespace: str
    state: str
    request: dict[str, Any]
    result: dict[str, Any]
    log: str
    created_at_us: int
    updated_at_us: int


class Verification(BaseModel):
    """What there is to say of an artifact that verifies."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verified: Literal[True]
    digest: str
    tenant: str
    namespace: str


class Rejection(Failure):
    """Why an artifact does not verify."""

    verified: Literal[False] = False


class FeedbackTaken(Form):
    """The label as it was recorded."""

    pair_id: str
    namespace: str
    action: str


def read_query(model: type[T], query: Sequence[tuple[str, str]]) -> T:
    """A query's parameters. Raises: UsageError with every fault, and for one given twice."""
    given = dict(query)
    if len(given) != len(query):
        raise UsageError("a parameter stands twice in the query")
    return _checked(model, given, strict=False)


def read_body(model: type[T], body: bytes) -> T:
    """A JSON body. Raises: UsageError with every fault; never with the values given."""
    try:
        value = orjson.loads(body)
        orjson.dumps(value)  # refuses what is nested too deeply to be written again
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        value = None
    if not isinstance(value, dict):
        raise UsageError("the body must be a JSON object")
    return _checked(model, value, strict=True)


def _checked(model: type[T], value: Any, *, strict: bool) -> T:
    try:
        return TypeAdapter(model).validate_python(value, strict=strict)
    except ValidationError as error:
        faults = {f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors()}
        raise UsageError("; ".join(sorted(faults)), remedy="see /openapi.json") from None


def _place(location: tuple[int | str, ...]) -> str:
    """A field's name; pydantic puts the models of a choice before it."""
    return next((str(part) for part in reversed(location) if str(part).islower()), "request")
