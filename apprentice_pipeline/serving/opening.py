"""The backend that the configuration names, and the process it may need.

Belongs here: names to backends, plug-ins among them. Does not: any backend.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable

from apprentice_pipeline.errors import ConfigError
from apprentice_pipeline.serving.backend import Backend
from apprentice_pipeline.serving.embedded import EmbeddedBackend, EmbeddedSupervisor, socket_path
from apprentice_pipeline.store.workspace import Workspace

ENTRY_POINTS = "apprentice_pipeline.backends"

_BUILT_IN = {
    "ollama": "apprentice_pipeline.serving.ollama:OllamaBackend",
    "vllm": "apprentice_pipeline.serving.vllm:VllmBackend",
    "llama_cpp": "apprentice_pipeline.serving.llama_cpp:LlamaCppBackend",
}
Factory = Callable[[Workspace], Backend]


def open_backend(workspace: Workspace) -> Backend:
    """The backend of `local.backend`: a built-in one, an entry point, or `package.module:factory`.

    A factory takes the workspace and returns a `Backend`. Connecting happens at first use.
    Raises: ConfigError when a plug-in cannot be found.
    """
    name = workspace.config.local.backend
    if name == "embedded":
        return EmbeddedBackend(socket_path(workspace.home.run))
    return _factory(_BUILT_IN.get(name, name))(workspace)


def open_supervisor(workspace: Workspace) -> EmbeddedSupervisor | None:
    """The supervisor of the process this backend needs, not started; None when it needs none."""
    if workspace.config.local.backend == "embedded":
        return EmbeddedSupervisor(workspace)
    return None


def _factory(name: str) -> Factory:
    try:
        factory: Factory = _dotted(name) if ":" in name else _entry_point(name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            [f"local.backend: {name} cannot be loaded ({type(error).__name__})"],
            source="apprentice.yaml",
            remedy="install the package that holds it, or choose embedded",
        ) from None
    return factory


def _dotted(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    factory: Factory = getattr(importlib.import_module(module), attribute)
    return factory


def _entry_point(name: str) -> Factory:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        factory: Factory = point.load()
        return factory
    raise ImportError(name)
