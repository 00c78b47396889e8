"""Settings on their way to a child process, through a pipe or a socket.

Belongs here: settings to one line of JSON and back. Does not: starting anything. Secrets travel
there only: not in arguments, not in the environment, not on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from apprentice_pipeline.config import Config, config_document
from apprentice_pipeline.settings import Home, Settings


def handed_over(settings: Settings, **more: Any) -> bytes:
    """One line, its newline included, that a child starts from; `more` is JSON besides."""
    document = {
        "config": config_document(settings.config),
        "home": str(settings.home.root),
        "master_key": settings.master_key.hex() if settings.master_key else None,
        "signing_secret": settings.signing_secret.hex() if settings.signing_secret else None,
        "environment": dict(settings.environment),
        "source": settings.source,
        "more": more,
    }
    return orjson.dumps(document) + b"\n"


def shown(settings: Settings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment to start a child with: `environment`, else that of these settings, without
    its secrets, which go through the pipe, where nobody can read them."""
    given = settings.environment if environment is None else environment
    remote = settings.config.remote
    secrets = {"APPRENTICE_MASTER_KEY", "APPRENTICE_SIGNING_SECRET", remote.api_key_env}
    secrets |= {each.api_key_env for each in remote.additional_providers}
    return {
        name: value
        for name, value in given.items()
        if name not in secrets and not name.endswith("_API_KEY")
    }


def taken_over(line: bytes) -> tuple[Settings, dict[str, Any]]:
    """The settings of such a line, and what came besides."""
    document = orjson.loads(line)
    settings = Settings(
        config=Config.model_validate(document["config"]),
        home=Home(Path(document["home"])),
        master_key=_bytes(document["master_key"]),
        signing_secret=_bytes(document["signing_secret"]),
        environment=document["environment"],
        source=document["source"],
    )
    return settings, document["more"]


def _bytes(text: Any) -> bytes | None:
    return bytes.fromhex(text) if text else None
