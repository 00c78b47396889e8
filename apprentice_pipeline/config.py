"""`apprentice.yaml` and the environment, as frozen models.

Belongs here: every key, its type, its default, its meaning; reading the environment from
an injected mapping; the paths under `APPRENTICE_HOME`. Does not: opening anything.
Promise: all faults of a file are reported at once, each with its line.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from apprentice_pipeline.errors import ConfigError
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

    provider: Literal["anthropic", "openai"]
    model: str
    api_key_env: str


class Price(Section):
    """US dollars per million tokens of one model."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    cache_write: Decimal | None = Field(default=None, ge=0)


class Endpoints(Section):
    """Base URLs of the providers, without `/v1`."""

    openai: str = "https://api.openai.com"
    anthropic: str = "https://api.anthropic.com"


class Remote(Section):
    """The frontier: which model answers `run`, and where providers live."""

    provider: Literal["anthropic", "openai"] = "anthropic"
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


class Gateway(Section):
    """Limits of the capture gateway."""

    host: str = "127.0.0.1"
    port: int = Field(default=8710, ge=0, le=65_535)
    workers: PositiveInt = 1
    commit_timeout_ms: PositiveInt = 250
    max_body_bytes: PositiveInt = 100_000_000
    max_connections: PositiveInt = 1_000
    upstream_timeout_s: float = Field(default=600.0, gt=0)
    key_cache_s: float = Field(default=1.0, gt=0, le=60.0)


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


@dataclass(frozen=True, slots=True)
class Home:
    """The paths under `APPRENTICE_HOME`. Nothing is created by naming them."""

    root: Path

    @property
    def spool(self) -> Path:
        """Folder of spool files, one per gateway worker."""
        return self.root / "spool"

    @property
    def lake(self) -> Path:
        """Folder of the Delta tables, one root per tenant."""
        return self.root / "lake"

    @property
    def state(self) -> Path:
        """The SQLite state database."""
        return self.root / "state.db"

    @property
    def keys(self) -> Path:
        """Master and signing keys, mode 0700."""
        return self.root / "keys"

    @property
    def corpora(self) -> Path:
        """Sealed corpus manifests."""
        return self.root / "corpora"

    @property
    def work(self) -> Path:
        """Adapters and evaluations between stages of one run."""
        return self.root / "work"

    @property
    def artifacts(self) -> Path:
        """Signed `.kolm` files."""
        return self.root / "artifacts"

    @property
    def mlflow(self) -> Path:
        """MLflow's SQLite store and artifacts."""
        return self.root / "mlflow"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.root / "dagster"

    @property
    def run(self) -> Path:
        """Sockets, locks and pid files of running processes."""
        return self.root / "run"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process starts from: configuration, home, secrets and provider keys."""

    config: Config
    home: Home
    master_key: bytes | None
    signing_secret: bytes | None
    environment: Mapping[str, str]
    source: str

    def api_key(self, variable: str) -> str | None:
        """A provider key by the name of its environment variable."""
        return self.environment.get(variable) or None


def load_settings(environment: Mapping[str, str], path: str | Path | None = None) -> Settings:
    """Settings from an environment mapping; `path` overrides `APPRENTICE_CONFIG`.

    An absent default file means defaults; a file that was named must exist.
    Raises: ConfigError with every fault of the file and of the environment.
    """
    named = path or environment.get("APPRENTICE_CONFIG")
    file = Path(named or "./apprentice.yaml")
    if file.is_file():
        config = parse_config(_text_of(file), source=str(file))
    elif named:
        raise ConfigError(
            ["the file does not exist"],
            source=str(file),
            remedy="write one with `apprentice init`, or unset APPRENTICE_CONFIG for the defaults",
        )
    else:
        config = Config()
    secret = environment.get("APPRENTICE_SIGNING_SECRET", "")
    return Settings(
        config=config,
        home=Home(Path(environment.get("APPRENTICE_HOME") or "./.apprentice").absolute()),
        master_key=_master_key(environment.get("APPRENTICE_MASTER_KEY", "")),
        signing_secret=secret.encode() or None,
        environment=dict(environment),
        source=str(file) if file.is_file() else "defaults",
    )


def parse_config(text: str, *, source: str) -> Config:
    """The configuration in `text`; `source` names it in messages.

    Raises: ConfigError with every unknown key, wrong type and impossible value, with lines.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError([f"{where}{problem}"], source=source) from None
    if document is None:
        return Config()
    if not isinstance(document, dict):
        raise ConfigError(["line 1: the file must hold a mapping of sections"], source=source)
    faults = _repeated_keys(root)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        faults += [_fault(root, item["loc"], item["msg"]) for item in error.errors()]
    if faults:
        raise ConfigError(sorted(faults, key=_line_number), source=source)
    return config


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(["line 1: the file is not UTF-8 text"], source=str(file)) from None
    except OSError as error:
        raise ConfigError(
            [f"the file cannot be read: {error.strerror}"],
            source=str(file),
            remedy="check its permissions",
        ) from None


def _known_or_dotted(name: str, known: tuple[str, ...]) -> str:
    """A built-in name, or `package.module:attribute` for a plug-in. Raises: ValueError."""
    if name in known or ":" in name:
        return name
    choices = ", ".join(known)
    raise ValueError(f"choose one of {choices}, or name a plug-in as package.module:attribute")


def _master_key(text: str) -> bytes | None:
    if not text:
        return None
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigError(
            ["APPRENTICE_MASTER_KEY must be 32 bytes in base64"],
            source="environment",
            remedy="make one with `openssl rand -base64 32`, or unset it to use the key file",
        )
    return key


def _line_number(fault: str) -> int:
    head = fault.removeprefix("line ").split(":", 1)[0]
    return int(head) if head.isdigit() else 0


def _fault(root: yaml.Node | None, location: tuple[int | str, ...], message: str) -> str:
    words = {
        "Extra inputs are not permitted": "unknown key",
        "Field required": "this key is required",
    }
    line, path = _locate(root, location)
    text = words.get(message, message.removeprefix("Value error, "))
    return f"line {line}: {path or 'file'}: {text}"


def _locate(root: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, str]:
    """The line of the deepest part of `location` that the file holds, and its dotted path."""
    node, line, path = root, 1, ""
    for part in location:
        step = _child(node, part)
        if step is None:
            if isinstance(part, str) and isinstance(node, yaml.MappingNode):
                path = f"{path}.{part}" if path else part
            continue
        key_line, node = step
        line = key_line
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return line, path


def _child(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    return None


def _repeated_keys(node: yaml.Node | None) -> list[str]:
    """YAML keeps the last of two equal keys in silence; a silent loss is a fault."""
    if isinstance(node, yaml.SequenceNode):
        return [fault for item in node.value for fault in _repeated_keys(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    faults, seen = [], set()
    for key, value in node.value:
        if key.value in seen:
            faults.append(f"line {key.start_mark.line + 1}: {key.value}: this key appears twice")
        seen.add(key.value)
        faults += _repeated_keys(value)
    return faults


def config_document(config: Config) -> dict[str, Any]:
    """The effective configuration as plain JSON values."""
    return config.model_dump(mode="json")
