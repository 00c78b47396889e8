"""Settings on their way from the supervisor to a worker, through a pipe.

Belongs here: settings to JSON and back. Does not: starting anything. Secrets travel in the
pipe only: not in arguments, not in the environment, not on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from apprentice_pipeline.config import Config, Home, Settings, config_document


def write_orders(settings: Settings, descriptor: int) -> bytes:
    """One line that a worker starts from; `descriptor` is its listening socket."""
    document = {
        "config": config_document(settings.config),
        "home": str(settings.home.root),
        "master_key": settings.master_key.hex() if settings.master_key else None,
        "signing_secret": settings.signing_secret.hex() if settings.signing_secret else None,
        "environment": dict(settings.environment),
        "source": settings.source,
        "descriptor": descriptor,
    }
    return orjson.dumps(document) + b"\n"


def read_orders(line: bytes) -> tuple[Settings, int]:
    """The settings, and the descriptor of the listening socket."""
    document = orjson.loads(line)
    settings = Settings(
        config=Config.model_validate(document["config"]),
        home=Home(Path(document["home"])),
        master_key=_bytes(document["master_key"]),
        signing_secret=_bytes(document["signing_secret"]),
        environment=document["environment"],
        source=document["source"],
    )
    return settings, int(document["descriptor"])


def _bytes(text: Any) -> bytes | None:
    return bytes.fromhex(text) if text else None
