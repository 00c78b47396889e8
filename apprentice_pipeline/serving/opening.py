"""The backend that the configuration names, and the process it may need.

Belongs here: names to backends, plug-ins among them. Does not: any backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from apprentice_pipeline import parts
from apprentice_pipeline.errors import ConfigError
from apprentice_pipeline.serving.backend import Backend
from apprentice_pipeline.serving.embedded import EmbeddedBackend, EmbeddedSupervisor, socket_path
from apprentice_pipeline.store.workspace import Workspace

_BUILT_IN = {
    "ollama": "apprentice_pipeline.serving.ollama:OllamaBackend",
    "vllm": "apprentice_pipeline.serving.vllm:VllmBackend",
    "llama_cpp": "apprentice_pipeline.serving.llama_cpp:LlamaCppBackend",
}
Factory = Callable[[Workspace], Backend]


def open_backend(workspace: Workspace) -> Backend:
    """The backend of `local.backend`: a built-in one, an entry point, or a dotted path.

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
    built_in = _BUILT_IN.get(name)
    factory = parts.load(parts.BACKENDS, built_in or name)
    if not callable(factory):
        raise ConfigError(
            [f"local.backend: {name} is not a function of the workspace"],
            source="apprentice.yaml",
            remedy="name a function that takes the workspace and returns a Backend",
        )
    return cast(Factory, factory)
