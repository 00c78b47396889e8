"""What a process starts from: the configuration, the home's paths, the environment's secrets.

Belongs here: reading the environment from an injected mapping; the paths under
`APPRENTICE_HOME`. Does not: opening anything.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from apprentice_pipeline.config import Config
from apprentice_pipeline.config_file import read_config
from apprentice_pipeline.errors import ConfigError

T = TypeVar("T")


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

    @property
    def key_changes(self) -> Path:
        """The file whose number rises with every change of an access or provider key."""
        return self.run / "key-changes"

    @property
    def losses(self) -> Path:
        """A link to the folder in memory of what dead workers have not counted yet."""
        return self.run / "losses"

    @property
    def erasures(self) -> Path:
        """Signed proofs of what was erased."""
        return self.root / "erasures"


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

    An absent default file means defaults; a file that was named must exist. `local.model_dir` is
    taken from the file's folder, wherever the process runs.
    Raises: ConfigError with every fault of the file and of the environment.
    """
    named = path or environment.get("APPRENTICE_CONFIG")
    file = Path(named or "./apprentice.yaml")
    refusals: list[ConfigError] = []
    config = _or_refusal(refusals, lambda: _config_in(file, named=bool(named)))
    master_key = _or_refusal(refusals, lambda: master_key_of(environment, "APPRENTICE_MASTER_KEY"))
    if refusals or config is None:
        raise _together(refusals)
    secret = environment.get("APPRENTICE_SIGNING_SECRET", "")
    return Settings(
        config=_placed(config, file.absolute().parent),
        home=Home(Path(environment.get("APPRENTICE_HOME") or "./.apprentice").absolute()),
        master_key=master_key,
        signing_secret=secret.encode() or None,
        environment=dict(environment),
        source=str(file) if file.is_file() else "defaults",
    )


def _config_in(file: Path, *, named: bool) -> Config:
    if file.is_file():
        return read_config(file)
    if not named:
        return Config()
    raise ConfigError(
        ["the file does not exist"],
        source=str(file),
        remedy="write one with `apprentice init`, or unset APPRENTICE_CONFIG for the defaults",
    )


def _placed(config: Config, folder: Path) -> Config:
    """The configuration with its folders of models absolute, taken from `folder`."""
    models = folder / Path(config.local.model_dir).expanduser()
    local = config.local.model_copy(update={"model_dir": str(models)})
    return config.model_copy(update={"local": local})


def _or_refusal(refusals: list[ConfigError], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ConfigError as refusal:
        refusals.append(refusal)
        return None


def _together(refusals: list[ConfigError]) -> ConfigError:
    """One refusal that holds every fault and every remedy."""
    if len(refusals) == 1:
        return refusals[0]
    return ConfigError(
        [fault for refusal in refusals for fault in refusal.faults],
        source=" and ".join(refusal.source for refusal in refusals),
        remedy="; ".join(refusal.remedy for refusal in refusals),
    )


def master_key_of(environment: Mapping[str, str], variable: str) -> bytes | None:
    """The 32 bytes that `variable` holds in base64, None where it is not set.

    Raises: ConfigError when it holds anything else.
    """
    text = environment.get(variable, "")
    if not text:
        return None
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigError(
            [f"{variable} must be 32 bytes in base64"],
            source="environment",
            remedy="make one with `openssl rand -base64 32`, or unset it to use the key file",
        )
    return key
