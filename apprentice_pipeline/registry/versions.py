"""Versions of one registered model: reading them, and the way forward and back between them.

Belongs here: what MLflow's versions mean to us, and the rules of promotion. Does not: locks,
errors of transport (`connection`). Promise: whoever was champion stays on record, in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from apprentice_pipeline.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
PREFIX = "apprentice."
_HISTORY = f"{PREFIX}champions"
_HISTORY_LENGTH = 50


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version. `path` is its `.kolm` where that lies on this machine.

    `digest` is empty for a version that another tool registered. `erased`: a pair it was trained
    on has been erased since. `revoked`: it must not be served. `rolled_back`: it was champion and
    had to go.
    """

    tenant: str
    namespace: str
    version: int
    digest: str
    k: float
    receipt_head: str
    aliases: tuple[str, ...]
    path: Path | None
    erased: bool
    revoked: bool
    rolled_back: bool
    created_at_us: int
    source: str
    file: str


def all_pages(fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    """Every entry of a paged answer of MLflow's."""
    token: str | None = None
    while True:
        page = fetch(token)
        yield from page
        token = page.token
        if not token:
            return


def list_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a model, newest first; empty when there is no such model."""
    return _matching(client, f"name='{name}'")


def version_of(client: MlflowClient, name: str, version: int) -> ModelVersion | None:
    """One version by its number."""
    return next((v for v in list_versions(client, name) if v.version == version), None)


def version_with_digest(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """The version that was registered for this artifact."""
    query = f"name='{name}' and tags.`{PREFIX}digest`='{digest}'"
    return next(iter(_matching(client, query)), None)


def version_at(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version under an alias; None without the alias or the model."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return _read(found, tuple(sorted(found.aliases)))


def crown(
    client: MlflowClient, name: str, target: ModelVersion, current: ModelVersion | None
) -> ModelVersion:
    """Moves the alias `champion` forward to `target`, and writes down the way back."""
    _check_usable(name, target)
    if current is None or current.version != target.version:
        past = [] if current is None else [current.version]
        history = [v for v in _history(client, name) if v not in (*past, target.version)]
        _move(client, name, target, [*history, *past])
    if CHALLENGER in target.aliases:
        client.delete_registered_model_alias(name, CHALLENGER)
    return _crowned(client, name)


def uncrown(
    client: MlflowClient, name: str, current: ModelVersion, version: int | None
) -> ModelVersion:
    """Moves the alias `champion` back: to the champion before, or to the older `version`."""
    history = [past for past in _history(client, name) if past != current.version]
    target = _way_back(name, list_versions(client, name), history, current, version)
    _check_usable(name, target)
    if target.version in history:
        history = history[: history.index(target.version)]
    client.set_model_version_tag(name, str(current.version), f"{PREFIX}rolled_back", "yes")
    _move(client, name, target, [past for past in history if past != target.version])
    return _crowned(client, name)


def _way_back(
    name: str,
    versions: Sequence[ModelVersion],
    history: Sequence[int],
    current: ModelVersion,
    version: int | None,
) -> ModelVersion:
    known = {found.version: found for found in versions}
    if version is None:
        past = [known[number] for number in history if number in known]
        usable = [found for found in past if not found.revoked and not found.erased]
        if not usable:
            raise RegistryError(
                f"{name} has no earlier champion to roll back to",
                remedy="name an older version with --version, or distill a new one",
            )
        return usable[-1]
    if version not in known:
        raise RegistryError(f"{name} has no version {version}")
    if version >= current.version and version not in history:
        raise RegistryError(
            f"version {version} of {name} is no earlier one than its champion",
            remedy="promote it instead",
        )
    return known[version]


def _check_usable(name: str, target: ModelVersion) -> None:
    for flag, word in ((target.revoked, "revoked"), (target.erased, "trained on erased pairs")):
        if flag:
            raise RegistryError(
                f"version {target.version} of {name} is {word}", remedy="distill a new version"
            )


def _move(client: MlflowClient, name: str, target: ModelVersion, before: list[int]) -> None:
    """History first: a crash between the two leaves a way back that names the champion twice."""
    kept = json.dumps([*before, target.version][-_HISTORY_LENGTH:])
    client.set_registered_model_tag(name, _HISTORY, kept)
    client.set_registered_model_alias(name, CHAMPION, str(target.version))


def _crowned(client: MlflowClient, name: str) -> ModelVersion:
    champion = version_at(client, name, CHAMPION)
    if champion is None:
        raise RegistryError(f"the champion of {name} was removed while it was set")
    return champion


def _history(client: MlflowClient, name: str) -> list[int]:
    """The versions that have been champion, oldest first."""
    text = client.get_registered_model(name).tags.get(_HISTORY, "[]")
    try:
        return [int(version) for version in json.loads(text)]
    except (ValueError, TypeError):
        return []


def _matching(client: MlflowClient, query: str) -> list[ModelVersion]:
    found = list(all_pages(lambda token: client.search_model_versions(query, page_token=token)))
    if not found:
        return []
    aliases = _aliases(client, found[0].name)
    versions = [_read(each, aliases.get(int(each.version), ())) for each in found]
    return sorted(versions, key=lambda version: -version.version)


def _aliases(client: MlflowClient, name: str) -> dict[int, tuple[str, ...]]:
    """The aliases of each version; searching versions does not return them."""
    found: dict[int, tuple[str, ...]] = {}
    for alias, version in sorted(client.get_registered_model(name).aliases.items()):
        found[int(version)] = (*found.get(int(version), ()), alias)
    return found


def _read(found: Any, aliases: tuple[str, ...]) -> ModelVersion:
    tenant, _, namespace = found.name.partition(".")
    tags = {key.removeprefix(PREFIX): value for key, value in found.tags.items()}
    file = Path(tags.get("file", "")).name
    address = urlparse(found.source)
    folder = Path(unquote(address.path)) if address.scheme in ("", "file") else None
    return ModelVersion(
        tenant=tenant,
        namespace=namespace,
        version=int(found.version),
        digest=tags.get("digest", ""),
        k=float(tags.get("k", 0.0)),
        receipt_head=tags.get("receipt_head", ""),
        aliases=aliases,
        path=folder / file if folder is not None and file else None,
        erased="erased_pairs" in tags,
        revoked="revoked" in tags,
        rolled_back="rolled_back" in tags,
        created_at_us=int(tags.get("created_at_us", 0)),
        source=found.source,
        file=file,
    )
