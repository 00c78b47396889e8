"""`apprentice.yaml` as frozen models.

Belongs here: every key, its type, its default, its meaning. Does not: reading a file
(`config_file`), the environment (`settings`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from apprentice_pipeline.records import NAME_PATTERN

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
BACKENDS = ("embedded", "ollama", "vllm", "llama_cpp")
EVALUATORS = ("structured_match", "semantic_similarity", "exact_match", "custom")
TRAINERS = ("huggingface", "unsloth", "axolotl", "openai")
FieldType = Literal["str", "int", "float", "bool", "dict", "list", "any"]


class Section(BaseModel):
    """A frozen part of the configuration: unknown keys are faults, so are wrong types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ConfidenceThresholds(Section):
    """When a task moves between phases. All but the first are on the correlation κ."""

    phase1_to_phase2: PositiveInt | None = None
    phase2_to_phase3: Share = 0.85
    coaching_trigger: Share = 0.70
    emergency_threshold: Share = 0.50

    @model_validator(mode="after")
    def _ordered(self) -> ConfidenceThresholds:
        if not self.emergency_threshold <= self.coaching_trigger <= self.phase2_to_phase3:
            raise ValueError(
                "thresholds must rise: emergency_threshold ≤ coaching_trigger ≤ phase2_to_phase3"
            )
        return self


class Budget(Section):
    """Limits on what the product itself spends; None is unlimited."""

    daily: Decimal | None = Field(default=None, ge=0)
    weekly: Decimal | None = Field(default=None, ge=0)
    monthly: Decimal | None = Field(default=None, ge=0)
    currency: Literal["USD"] = "USD"
    timezone: str = "UTC"
    enforce_passthrough: bool = False

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

    tail_oversampling: float = Field(default=2.0, ge=1.0)
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
    consent: bool = True
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
        return _known_or_dotted(evaluator, EVALUATORS)

    @model_validator(mode="after")
    def _fields_exist(self) -> Task:
        known = self.output_schema or self.match_fields
        unknown = [field for field in self.match_fields if field not in known]
        if unknown:
            raise ValueError(f"match_fields not in output_schema: {', '.join(unknown)}")
        return self


class Provider(Section):
    """A remote model and where its key is found."""

    provider: Literal["anthropic", "openai", "gemini"]
    model: str
    api_key_env: str


class Price(Section):
    """US dollars per million tokens of one model."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    cache_write: Decimal | None = Field(default=None, ge=0)


class Endpoints(Section):
    """Base URLs of the providers, without `/v1` or `/v1beta`."""

    openai: str = "https://api.openai.com"
    anthropic: str = "https://api.anthropic.com"
    gemini: str = "https://generativelanguage.googleapis.com"


class Remote(Section):
    """The frontier: which model answers `run`, and where providers live."""

    provider: Literal["anthropic", "openai", "gemini"] = "anthropic"
    model: str = "claude-sonnet-4-5-20250929"
    api_key_env: str = "ANTHROPIC_API_KEY"
    additional_providers: tuple[Provider, ...] = ()
    endpoints: Endpoints = Endpoints()
    prices: dict[str, Price] = Field(default_factory=dict)
    timeout_s: float = Field(default=120.0, gt=0)
    max_retries: int = Field(default=3, ge=0, le=20)


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
    threads: int = Field(default=0, ge=0)
    url: str = ""

    @field_validator("fine_tune_backend")
    @classmethod
    def _trainer(cls, trainer: str) -> str:
        return _known_or_dotted(trainer, TRAINERS)

    @field_validator("backend")
    @classmethod
    def _backend(cls, backend: str) -> str:
        return _known_or_dotted(backend, BACKENDS)


class Sampling(Section):
    """How often a served request is also asked remotely."""

    decay_function: Literal["exponential", "linear", "step"] = "exponential"
    min_floor: Share = 0.02
    window_size: PositiveInt = 100
    trend_sensitivity: Share = 0.05


class Capture(Section):
    """What the gateway records."""

    max_bytes: PositiveInt = 8_000_000
    inject_usage: bool = False
    retention_days: PositiveInt | None = None


class Verify(Section):
    """Which pairs are resampled, how often, and when they pass."""

    fraction: Share = 0.2
    k: PositiveInt = 3
    floor: Share = 1.0
    concurrency: PositiveInt = 8


class Distill(Section):
    """When to train, what to hold out, and the LoRA's hyper-parameters (None: tuned default)."""

    threshold: PositiveInt = 1_000
    holdout_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    max_disagreeing_inputs: Share = 0.05
    rank: PositiveInt | None = None
    alpha: PositiveInt | None = None
    dropout: Share | None = None
    epochs: PositiveInt | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: PositiveInt | None = None
    max_length: PositiveInt | None = None
    seed: int = 17


class KScoreGate(Section):
    """The gate a challenger must pass."""

    gate: Share = 0.85
    min_fidelity: Share = 0.70
    min_holdout: PositiveInt = 100
    non_inferiority_margin: Share = 0.03
    target_latency_ms: float | None = Field(default=None, gt=0)
    bootstrap: PositiveInt = 1_000


class Serving(Section):
    """What the router may serve locally."""

    max_disagreement: Share = 0.05
    risk_delta: Share = 0.05
    promotion: Literal["auto", "review"] = "auto"
    arl: PositiveInt = 10_000
    registry_poll_s: float = Field(default=2.0, gt=0)


class Signing(Section):
    """Artifact signing. Empty paths: a key pair under `APPRENTICE_HOME/keys`, made at need."""

    private_key: str = ""
    public_key: str = ""


class Store(Section):
    """Where data lives. Empty: under `APPRENTICE_HOME`."""

    lake_uri: str = ""
    lake_options: dict[str, str] = Field(default_factory=dict)
    state_url: str = ""
    drain_interval_s: float = Field(default=1.0, gt=0)


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
    port: int = Field(default=8710, ge=0, le=65_535)
    workers: PositiveInt = 1
    commit_timeout_ms: PositiveInt = 250
    max_body_bytes: PositiveInt = 100_000_000
    max_connections: PositiveInt = 1_000
    max_clients: PositiveInt = 10_000
    max_in_flight: PositiveInt = 1_000
    max_in_flight_per_tenant: PositiveInt = 800
    max_header_bytes: PositiveInt = 65_536
    max_headers: PositiveInt = 200
    header_timeout_s: float = Field(default=30.0, gt=0)
    body_timeout_s: float = Field(default=60.0, gt=0)
    write_timeout_s: float = Field(default=120.0, gt=0)
    total_timeout_s: float = Field(default=3_600.0, gt=0)
    upstream_timeout_s: float = Field(default=600.0, gt=0)
    shutdown_grace_s: float = Field(default=60.0, gt=0)
    key_cache_s: float = Field(default=1.0, gt=0, le=60.0)
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

    @model_validator(mode="after")
    def _unique_tasks(self) -> Config:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks declared twice: {', '.join(twice)}")
        return self

    def task(self, namespace: str) -> Task | None:
        """The declared task of a namespace, None where it only came to exist by capture."""
        return next((task for task in self.tasks if task.name == namespace), None)

    def first_training_needs(self, namespace: str) -> int:
        """Train pairs needed before the first distillation of a namespace."""
        task = self.task(namespace)
        declared = task.confidence_thresholds.phase1_to_phase2 if task else None
        return declared or self.distill.threshold


def config_document(config: Config) -> dict[str, Any]:
    """The effective configuration as plain JSON values."""
    return config.model_dump(mode="json")


def _known_or_dotted(name: str, known: tuple[str, ...]) -> str:
    """A built-in name, or `package.module:attribute` for a plug-in. Raises: ValueError."""
    if name in known or ":" in name:
        return name
    choices = ", ".join(known)
    raise ValueError(f"choose one of {choices}, or name a plug-in as package.module:attribute")
