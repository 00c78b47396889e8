"""What `apprentice doctor` looks at. Finds; repairs nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from apprentice_pipeline.cli import interpreter, opening
from apprentice_pipeline.errors import ApprenticeError
from apprentice_pipeline.settings import Settings

PARTS = (
    ("train", ("torch", "transformers", "peft", "trl"), "distillation and the embedded backend"),
    ("orchestration", ("dagster", "dagster_webserver"), "Dagster"),
    ("registry", ("mlflow",), "the model registry"),
)
LEAST_FREE_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `remedy` when it is not well."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Python, parts, configuration, keys, disk, memory and the bases that fit it."""
    try:
        settings = opening.settings()
    except ApprenticeError as error:
        configuration = Finding("configuration", False, error.message, error.remedy)
        return [*_python(), *_parts(), configuration]
    return [
        *_python(),
        *_parts(),
        Finding("configuration", True, settings.source),
        *_provider_keys(settings),
        _disk(settings.home.root),
        _signing_secret(settings),
        *_memory(),
    ]


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    quick = interpreter.is_optimised()
    built = "with optimisation" if quick else "without: calls take a quarter more processor"
    return [
        Finding("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer"),
        Finding("Python's build", quick, built, interpreter.REMEDY, required=False),
    ]


def _parts() -> list[Finding]:
    findings = []
    for extra, modules, purpose in PARTS:
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        detail = f"{purpose}: {'missing ' + ', '.join(absent) if absent else 'installed'}"
        remedy = f"pip install 'apprentice-pipeline[{extra}]'"
        findings.append(Finding(f"extra {extra}", not absent, detail, remedy))
    return findings


def _provider_keys(settings: Settings) -> list[Finding]:
    remote = settings.config.remote
    variables = [remote.api_key_env, *(p.api_key_env for p in remote.additional_providers)]
    return [
        Finding(
            f"key {variable}",
            settings.api_key(variable) is not None,
            "set" if settings.api_key(variable) else "not set: no resampling, no `run`",
            f"export {variable}=… (capture alone needs none: clients send their own)",
            required=False,
        )
        for variable in dict.fromkeys(variables)
    ]


def _disk(root: Path) -> Finding:
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return Finding(
        "disk",
        free >= LEAST_FREE_BYTES,
        f"{free / 1e9:.1f} GB free at {existing}",
        "free some, or point APPRENTICE_HOME at a larger disk",
    )


def _signing_secret(settings: Settings) -> Finding:
    return Finding(
        "APPRENTICE_SIGNING_SECRET",
        settings.signing_secret is not None,
        "set" if settings.signing_secret else "not set: receipts carry no MAC",
        "export APPRENTICE_SIGNING_SECRET=$(openssl rand -base64 32)",
        required=False,
    )


def _memory() -> list[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if importlib.util.find_spec("torch") is None:
        return [Finding("memory", True, f"{total / 1e9:.0f} GB")]
    from apprentice_pipeline.distill.base_model import recommend_bases

    bases = ", ".join(base.name for base in recommend_bases(total))
    return [Finding("memory", True, f"{total / 1e9:.0f} GB; bases that fit: {bases}")]
