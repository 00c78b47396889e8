"""`apprentice.yaml` as frozen models.

Belongs here: every key, its type, its default, its meaning, and what two keys may not say of
each other. Does not: reading a file (`config_file`), the environment (`settings`).
Promises: no value is taken for one of another type (a whole number where a fraction is wanted
is one); a section's own faults hide none of those between its keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import combinations, pairwise
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from apprentice_pipeline import parts
from apprentice_pipeline.records import NAME_PATTERN


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("a number is wanted here, not text or true or false")
    return value


Int = Annotated[int, Strict()]
PositiveInt = Annotated[int, Strict(), Field(gt=0)]
Bool = Annotated[bool, Strict()]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
PositiveFloat = Annotated[Float, Field(gt=0.0)]
Share = Annotated[Float, Field(ge=0.0, le=1.0)]
InnerShare = Annotated[Float, Field(gt=0.0, lt=1.0)]
Usd = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0),
    PlainSerializer(float, return_type=float, when_used="json"),
]
ProviderName = Annotated[str, AfterValidator(lambda name: parts.check_name(parts.PROVIDERS, name))]
Location = tuple[int | str, ...]

MOST_BOOTSTRAP = 10_000
"""Whoever checks an artifact draws it again, so an artifact may not ask for more."""
OTHER_TRAINERS = ("unsloth", "axolotl", "openai")
"""Names of `fine_tune_backend` that an installed package must register before one can train."""
FieldType = Literal["str", "int", "float", "bool", "dict", "list", "any"]


def _given(data: Any) -> Mapping[str, Any]:
    if isinstance(data, BaseModel):
        return vars(data)
    return data if isinstance(data, Mapping) else {}


def _at(faults: list[InitErrorDetails]) -> set[Location]:
    return {fault["loc"] for fault in faults}


def _as_detail(where: Location, words: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("fault", words), loc=where, input=None)


def _both(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> bool:
    return _is_number(before.get(name)) and _is_number(after.get(name))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Section(BaseModel):
    """A frozen part of the configuration: unknown keys are faults, so are wrong types.

    A section whose keys bind each other says so in `across`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:  # noqa: ARG003
        """The faults between keys, each where it stands.

        `given` is what was given, of any type; None where a value is a fault by itself.
        """
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_faults(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        faults: list[InitErrorDetails] = []
        section: Self | None = None
        try:
            section = handler(data)
        except ValidationError as error:
            faults = [_as_detail(item["loc"], item["msg"]) for item in error.errors()]
        given = dict(_given(data))
        given |= {str(where[0]): None for where in _at(faults) if len(where) == 1}
        faults += [_as_detail(where, words) for where, words in cls.across(given)]
        if faults or section is None:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return section


class ConfidenceThresholds(Section):
    """When a task moves between phases. All but the first are on the correlation κ."""

    phase1_to_phase2: PositiveInt | None = None
    phase2_to_phase3: Share = 0.85
    coaching_trigger: Share = 0.70
    emergency_threshold: Share = 0.50

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Thresholds rise."""
        order = ("emergency_threshold", "coaching_trigger", "phase2_to_phase3")
        known = [(name, cls.model_fields[name].default) for name in order]
        known = [(name, given.get(name, default)) for name, default in known]
        for (lower, low), (_, high) in combinations(known, 2):
            if _is_number(low) and _is_number(high) and low > high:
                at = lower if lower in given else next(name for name in order if name in given)
                yield (at,), f"thresholds must rise: {' ≤ '.join(order)}"
                return


class Budget(Section):
    """Limits on what the product itself spends; None is unlimited."""

    daily: Usd | None = None
    weekly: Usd | None = None
    monthly: Usd | None = None
    currency: Literal["USD"] = "USD"
    timezone: str = "UTC"
    enforce_passthrough: Bool = False

    @field_validator("timezone")
    @classmethod
    def _zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not a time zone; write it like UTC or Europe/Berlin") from None
        return zone


class Coaching(Section):
    """What a task does while its agreement is low."""

    tail_oversampling: Float = Field(default=2.0, ge=1.0)
    retrain_every: PositiveInt | None = None


class Task(Section):
    """One declared task: its namespace has the same name."""

    name: str
    description: str = ""
    input_schema: dict[str, FieldType] = Field(default={"text": "str"})
    output_schema: dict[str, FieldType] = Field(default_factory=dict)
    evaluator: str = "structured_match"
    match_fields: tuple[str, ...] = ()
    confidence_thresholds: ConfidenceThresholds = ConfidenceThresholds()
    budget: Budget | None = None
    coaching: Coaching = Coaching()
    consent: Bool = True
    retention_days: PositiveInt | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"task names match {NAME_PATTERN.pattern}")
        return name

    @field_validator("evaluator")
    @classmethod
    def _evaluator(cls, evaluator: str) -> str:
        return parts.check_name(parts.EVALUATORS, evaluator)

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Fields to match are fields of the answer."""
        known, fields = given.get("output_schema"), given.get("match_fields")
        if not isinstance(known, dict) or not known or not isinstance(fields, list | tuple):
            return
        unknown = [field for field in fields if isinstance(field, str) and field not in known]
        if unknown:
            yield ("match_fields",), f"match_fields not in output_schema: {', '.join(unknown)}"


class Provider(Section):
    """A remote model and where its key is found."""

    provider: ProviderName
    model: str
    api_key_env: str


class Price(Section):
    """US dollars per million tokens of one model."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None
    cache_write: Usd | None = None


class Endpoints(Section):
    """Base URLs of the providers, without `/v1` or `/v1beta`."""

    openai: str = "https://api.openai.com"
    anthropic: str = "https://api.anthropic.com"
    gemini: str = "https://generativelanguage.googleapis.com"


class Remote(Section):
    """The frontier: which model answers `run`, and where providers live."""

    provider: ProviderName = "anthropic"
    model: str = "claude-sonnet-4-5-20250929"
    api_key_env: str = "ANTHROPIC_API_KEY"
    additional_providers: tuple[Provider, ...] = ()
    endpoints: Endpoints = Endpoints()
    prices: dict[str, Price] = Field(default_factory=dict)
    timeout_s: PositiveFloat = 120.0
    max_retries: Int = Field(default=3, ge=0, le=20)


class Local(Section):
    """The local model: what serves it and what it is grown from."""

    backend: str = "embedded"
    base_model: str = "embedded"
    fine_tune_backend: str = "huggingface"
    fine_tune_batch_size: PositiveInt = 100
    model_dir: str = "./models/"
    deadline_ms: PositiveInt = 5_000
    queue_size: PositiveInt = 64
    max_new_tokens: PositiveInt = 256
    max_batch: PositiveInt = 8
    max_adapters: PositiveInt = 4
    threads: Int = Field(default=0, ge=0)
    url: str = ""
    cost_usd_per_hour: Usd = Decimal(0)
    """What an hour of the machine that serves costs; 0 for one that is there anyway."""

    @field_validator("fine_tune_backend")
    @classmethod
    def _trainer(cls, trainer: str) -> str:
        return parts.check_name(parts.TRAINERS, trainer, OTHER_TRAINERS)

    @field_validator("backend")
    @classmethod
    def _backend(cls, backend: str) -> str:
        return parts.check_name(parts.BACKENDS, backend)


class SamplingStep(Section):
    """From `at` on, the share `pi` is sampled. `at` is 0 at the coaching trigger, 1 at κ = 1."""

    at: Share
    pi: Share


class Sampling(Section):
    """How often a served request is also asked remotely.

    `step_table` is what `decay_function: step` reads; empty is the built-in one.
    """

    decay_function: Literal["exponential", "linear", "step"] = "exponential"
    step_table: tuple[SamplingStep, ...] = ()
    min_floor: Share = 0.02
    window_size: PositiveInt = 100
    trend_sensitivity: Share = 0.05

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Steps climb in `at` and never in `pi`, and are read only where the decay is `step`."""
        table = given.get("step_table")
        if not isinstance(table, list | tuple) or not table:
            return
        if given.get("decay_function", "exponential") in ("exponential", "linear"):
            yield ("step_table",), "only decay_function: step reads a table"
        steps = [_given(step) for step in table]
        for place, (before, after) in enumerate(pairwise(steps), start=1):
            if _both(before, after, "at") and not before["at"] < after["at"]:
                yield ("step_table", place, "at"), "steps must rise: larger than the one before"
            if _both(before, after, "pi") and before["pi"] < after["pi"]:
                yield ("step_table", place, "pi"), "no larger than the one before: π never rises"


RedactionName = Literal["card", "email", "iban", "ip", "phone", "secret"]


class RedactionPattern(Section):
    """A regular expression, and what is kept in place of its matches."""

    pattern: str = Field(min_length=1, max_length=1_000)
    replacement: str = "[REDACTED]"

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            found = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if found.match(""):
            raise ValueError("it matches nothing at all, everywhere")
        return pattern


class Capture(Section):
    """What the gateway records."""

    max_bytes: PositiveInt = 8_000_000
    inject_usage: Bool = False
    retention_days: PositiveInt | None = None
    redaction: tuple[RedactionName | RedactionPattern, ...] = ()


class Verify(Section):
    """Which pairs are resampled, how often, and when they pass."""

    fraction: Share = 0.2
    k: PositiveInt = 3
    floor: Share = 1.0
    concurrency: PositiveInt = 8


class Distill(Section):
    """When to train, what to hold out, and the LoRA's hyper-parameters (None: tuned default)."""

    threshold: PositiveInt = 1_000
    holdout_fraction: InnerShare = 0.15
    max_disagreeing_inputs: Share = 0.05
    rank: PositiveInt | None = None
    alpha: PositiveInt | None = None
    dropout: Share | None = None
    epochs: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    max_length: PositiveInt | None = None
    seed: Int = 17


class KScoreGate(Section):
    """The gate a challenger must pass.

    `include_text` puts the holdout's requests and answers, readable, into `evals.json`.
    """

    gate: Share = 0.85
    min_fidelity: Share = 0.70
    min_holdout: PositiveInt = 100
    non_inferiority_margin: Share = 0.03
    target_latency_ms: PositiveFloat | None = None
    bootstrap: PositiveInt = Field(default=1_000, le=MOST_BOOTSTRAP)
    include_text: Bool = False


class Serving(Section):
    """What the router may serve locally."""

    max_disagreement: InnerShare = 0.05
    risk_delta: InnerShare = 0.05
    promotion: Literal["auto", "review"] = "auto"
    arl: PositiveInt = 10_000
    registry_poll_s: PositiveFloat = 2.0


class Signing(Section):
    """Artifact signing. Empty paths: a key pair under `APPRENTICE_HOME/keys`, made at need."""

    private_key: str = ""
    public_key: str = ""


class Store(Section):
    """Where data lives. Empty: under `APPRENTICE_HOME`."""

    lake_uri: str = ""
    lake_options: dict[str, str] = Field(default_factory=dict)
    state_url: str = ""
    drain_interval_s: PositiveFloat = 1.0
    maintenance_interval_s: PositiveFloat = 3_600.0


class RegistrySection(Section):
    """MLflow. Empty: SQLite under `APPRENTICE_HOME`."""

    tracking_uri: str = ""


class Alerts(Section):
    """Where alerts go besides the log and the metrics."""

    webhook: str = ""

    @field_validator("webhook")
    @classmethod
    def _address(cls, webhook: str) -> str:
        if webhook and not webhook.startswith(("https://", "http://")):
            raise ValueError("an address that begins with https:// or http://")
        return webhook


class Telemetry(Section):
    """OpenTelemetry spans of captured calls; none without an endpoint."""

    otlp_endpoint: str = ""
    sample: Share = 1.0
    queue_size: PositiveInt = 2_048

    @field_validator("otlp_endpoint")
    @classmethod
    def _address(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("https://", "http://")):
            raise ValueError("an address that begins with https:// or http://")
        return endpoint


class Gateway(Section):
    """Limits of the capture gateway, and what it tells of itself."""

    host: str = "127.0.0.1"
    port: Int = Field(default=8710, ge=0, le=65_535)
    workers: PositiveInt = 1
    commit_timeout_ms: PositiveInt = 250
    max_body_bytes: PositiveInt = 100_000_000
    max_connections: PositiveInt = 1_000
    max_clients: PositiveInt = 10_000
    max_in_flight: PositiveInt = 1_000
    max_in_flight_per_tenant: PositiveInt = 800
    max_header_bytes: PositiveInt = 65_536
    max_headers: PositiveInt = 200
    header_timeout_s: PositiveFloat = 30.0
    body_timeout_s: PositiveFloat = 60.0
    write_timeout_s: PositiveFloat = 120.0
    total_timeout_s: PositiveFloat = 3_600.0
    upstream_timeout_s: PositiveFloat = 600.0
    shutdown_grace_s: PositiveFloat = 60.0
    key_cache_s: Float = Field(default=1.0, gt=0, le=60.0)
    tls_certificate: str = ""
    tls_key: str = ""
    access_log: Literal["off", "text", "json"] = "off"
    telemetry: Telemetry = Telemetry()

    @field_validator("access_log", mode="before")
    @classmethod
    def _off(cls, form: object) -> object:
        return "off" if form is False else form  # YAML reads a bare `off` as false


class Config(Section):
    """The whole of `apprentice.yaml`."""

    tasks: tuple[Task, ...] = ()
    remote: Remote = Remote()
    local: Local = Local()
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    capture: Capture = Capture()
    verify: Verify = Verify()
    distill: Distill = Distill()
    kscore: KScoreGate = KScoreGate()
    serving: Serving = Serving()
    signing: Signing = Signing()
    store: Store = Store()
    registry: RegistrySection = RegistrySection()
    alerts: Alerts = Alerts()
    gateway: Gateway = Gateway()

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """A name is one task's."""
        seen: set[str] = set()
        tasks = given.get("tasks")
        for place, task in enumerate(tasks if isinstance(tasks, list | tuple) else ()):
            name = task.name if isinstance(task, Task) else _given(task).get("name")
            if isinstance(name, str) and name in seen:
                yield ("tasks", place, "name"), f"tasks declared twice: {name}"
            elif isinstance(name, str):
                seen.add(name)

    def task(self, namespace: str) -> Task | None:
        """The declared task of a namespace, None where it only came to exist by capture."""
        return next((task for task in self.tasks if task.name == namespace), None)

    def consents(self, namespace: str) -> bool:
        """Whether the namespace's pairs may be learnt from."""
        task = self.task(namespace)
        return task is None or task.consent

    def first_training_needs(self, namespace: str) -> int:
        """Train pairs needed before the first distillation of a namespace."""
        task = self.task(namespace)
        declared = task.confidence_thresholds.phase1_to_phase2 if task else None
        return declared or self.distill.threshold


def config_document(config: Config) -> dict[str, Any]:
    """The effective configuration as plain JSON values."""
    return config.model_dump(mode="json")
