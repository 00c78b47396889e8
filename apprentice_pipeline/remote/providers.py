"""The providers that our own calls know: the built-in ones, and those named in the configuration.

Belongs here: what a call needs of a provider. Does not: the formats themselves (`wire`), calls.
Promise: only a name that stands in the configuration is ever imported, never one found in data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from apprentice_pipeline import config, parts
from apprentice_pipeline.errors import ConfigError, RemoteError
from apprentice_pipeline.wire.forms import WireFormat
from apprentice_pipeline.wire.providers import wire_format

_ANTHROPIC_VERSION: Final = "2023-06-01"


def bearer(key: str) -> dict[str, str]:
    """The header most providers take their key in."""
    return {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True)
class RemoteProvider:
    """What a call of ours needs: the wire format, the base URL its paths follow, the endpoint's
    name in that format, and the headers that carry a key."""

    wire: WireFormat
    base_url: str
    endpoint: str
    headers: Callable[[str], Mapping[str, str]] = bearer


def remote_provider(name: str, settings: config.Remote) -> RemoteProvider:
    """The provider of a name. Raises: RemoteError for one neither built in nor configured;
    ConfigError when a part from outside cannot be loaded or is not a provider."""
    if name in parts.PROVIDERS.built_in:
        base = str(getattr(settings.endpoints, name)).rstrip("/").removesuffix("/v1")
        endpoint, headers = _BUILT_IN[name]
        return RemoteProvider(wire_format(name), base, endpoint, headers)
    configured = (settings.provider, *(each.provider for each in settings.additional_providers))
    if name not in configured:
        raise RemoteError(
            "unknown provider",
            remedy=f"choose one of {', '.join(parts.known_names(parts.PROVIDERS))}, and name it "
            "under remote in apprentice.yaml",
        )
    return _from_outside(name)


def _from_outside(name: str) -> RemoteProvider:
    found = parts.load(parts.PROVIDERS, name)
    made = found() if callable(found) and not isinstance(found, RemoteProvider) else found
    if not isinstance(made, RemoteProvider):
        raise ConfigError(
            [f"provider {name}: not a RemoteProvider, nor a function that gives one"],
            source="apprentice.yaml",
            remedy="give an apprentice_pipeline.remote.providers.RemoteProvider",
        )
    return made


def _anthropic(key: str) -> dict[str, str]:
    return {"x-api-key": key, "anthropic-version": _ANTHROPIC_VERSION}


def _gemini(key: str) -> dict[str, str]:
    return {"x-goog-api-key": key}


_BUILT_IN: Final[Mapping[str, tuple[str, Callable[[str], Mapping[str, str]]]]] = {
    "openai": ("chat.completions", bearer),
    "anthropic": ("messages", _anthropic),
    "gemini": ("generateContent", _gemini),
}
