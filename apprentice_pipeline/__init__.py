"""Apprentice Pipeline: turns paid frontier calls into a local model you own.

from apprentice_pipeline import Apprentice

with Apprentice.from_config("apprentice.yaml") as apprentice:
    result = apprentice.run("classify_ticket", {"text": "..."})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apprentice_pipeline.errors import ApprenticeError

if TYPE_CHECKING:
    from apprentice_pipeline.apprentice import Apprentice, AsyncApprentice

__version__ = "0.1.0"
__all__ = ["Apprentice", "ApprenticeError", "AsyncApprentice", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads the interface at first use, so that importing the package stays instant."""
    if name in {"Apprentice", "AsyncApprentice"}:
        from apprentice_pipeline import apprentice

        return getattr(apprentice, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
