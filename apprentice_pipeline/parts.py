"""Parts from outside, found by name: evaluators, backends, trainers, providers.

Belongs here: the order of finding (built in, entry point, dotted path) and loading. Does not:
what a part must be able to do; each kind's own module checks that.
Promise: naming a part imports nothing of it; only `load` does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.errors import ConfigError

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*[.:][^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of part: its key in apprentice.yaml, its entry point group, the built-in names."""

    key: str
    group: str
    built_in: tuple[str, ...]


EVALUATORS = Kind(
    "evaluator",
    "apprentice_pipeline.evaluators",
    ("structured_match", "semantic_similarity", "exact_match", "custom"),
)
BACKENDS = Kind(
    "local.backend",
    "apprentice_pipeline.backends",
    ("embedded", "ollama", "vllm", "llama_cpp"),
)
TRAINERS = Kind("local.fine_tune_backend", "apprentice_pipeline.trainers", ("huggingface",))
PROVIDERS = Kind("provider", "apprentice_pipeline.providers", ("anthropic", "openai", "gemini"))


def known_names(kind: Kind) -> list[str]:
    """The built-in names, then those that installed packages register."""
    installed = {point.name for point in importlib.metadata.entry_points(group=kind.group)}
    return [*kind.built_in, *sorted(installed - set(kind.built_in))]


def is_registered(kind: Kind, name: str) -> bool:
    """Whether an installed package registers a part of that name."""
    return bool(importlib.metadata.entry_points(group=kind.group, name=name))


def is_dotted(name: str) -> bool:
    """Whether a name has the form `package.module:attribute` or `package.module.attribute`."""
    return bool(_DOTTED.fullmatch(name))


def check_name(kind: Kind, name: str, also: Sequence[str] = ()) -> str:
    """The name, when it can be one: built in, in `also`, registered, or a dotted path.

    Raises: ValueError with every known name and how to name one's own.
    """
    if name in kind.built_in or name in also or is_dotted(name) or is_registered(kind, name):
        return name
    names = ", ".join([*known_names(kind), *also])
    raise ValueError(
        f"choose one of {names}; or install a package that registers {name!r} under the entry "
        f"point {kind.group}, or name your own as package.module:attribute"
    )


def load(kind: Kind, name: str) -> Any:
    """What an entry point or a dotted path names; built-in names are the caller's.

    Raises: ConfigError when there is nothing of that name, or it breaks while it is imported.
    """
    points = importlib.metadata.entry_points(group=kind.group, name=name)
    if not points and not is_dotted(name):
        raise _missing(kind, name, f"nothing of that name is registered under {kind.group}")
    try:
        for point in points:
            return point.load()
        return _dotted(name)
    except Exception as error:  # a part's own code runs here and may raise anything
        raise _missing(kind, name, _cause(error)) from error


def _missing(kind: Kind, name: str, cause: str) -> ConfigError:
    return ConfigError(
        [f"{kind.key}: {name} cannot be loaded: {cause}"],
        source="apprentice.yaml",
        remedy="install the package that holds it, name your own as package.module:attribute, or "
        f"choose one of {', '.join(known_names(kind))}",
    )


def _dotted(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        module, _, attribute = name.rpartition(".")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _cause(error: Exception) -> str:
    """The error in words; a part's own message is left out, it might say anything."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"there is no module {error.name}"
    return type(error).__name__
