"""Opening what commands work on: settings and workspace from the environment.

The only place of the command line that touches `os.environ`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import DEFAULT_TENANT, is_name
from apprentice_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from apprentice_pipeline.store.workspace import Workspace


_handed: dict[str, str] = {}


def take_over(environment: Mapping[str, str]) -> None:
    """Adds to this process's environment what was handed to it unseen (`cli.handed`)."""
    _handed.update(environment)


def environment() -> Mapping[str, str]:
    """The environment that commands read: this process's, and what was handed to it."""
    return {**os.environ, **_handed}


def settings() -> Settings:
    """The settings of this process."""
    return load_settings(environment())


@contextmanager
def workspace() -> Iterator[Workspace]:
    """The opened workspace of this process, closed at the end."""
    from apprentice_pipeline.store.workspace import Workspace

    opened = Workspace.open(settings())
    try:
        yield opened
    finally:
        opened.close()


def checked_name(text: str, what: str) -> str:
    """`text` if it may name a tenant or namespace. Raises: UsageError."""
    if not is_name(text):
        raise UsageError(
            f"{text!r} cannot name a {what}",
            remedy="use lower-case letters, digits, _ and -, starting with a letter or digit, "
            "63 characters at most",
        )
    return text


def checked_tenant(tenant: str | None) -> str:
    """A valid tenant, by default the one named so. Raises: UsageError."""
    return checked_name(tenant or DEFAULT_TENANT, "tenant")


def checked_stream(tenant: str | None, namespace: str) -> tuple[str, str]:
    """A valid (tenant, namespace); the tenant defaults. Raises: UsageError."""
    return checked_name(tenant or DEFAULT_TENANT, "tenant"), checked_name(namespace, "namespace")
