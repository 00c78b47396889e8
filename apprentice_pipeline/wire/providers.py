"""The provider modules by name.

Belongs here: which provider names have a wire format. Does not: endpoints' addresses, keys.
"""

from __future__ import annotations

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire import anthropic, gemini, openai
from apprentice_pipeline.wire.forms import WireFormat

PROVIDERS = ("openai", "anthropic", "gemini")


def wire_format(provider: str) -> WireFormat:
    """The module of a provider. Raises: WireError for a name that has none."""
    if provider == "openai":
        return openai
    if provider == "anthropic":
        return anthropic
    if provider == "gemini":
        return gemini
    raise WireError(
        "unknown provider",
        remedy=f"choose one of {', '.join(PROVIDERS)}",
    )
