"""`Registry`: register, promote, roll back, poll, fetch.

Belongs here: the interface other floors use. Does not: transport (`connection`), the rules
between versions (`versions`). Promise: see the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apprentice_pipeline.errors import RegistryError
from apprentice_pipeline.records import is_name
from apprentice_pipeline.registry.connection import Connection, error_code, file_uri
from apprentice_pipeline.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREFIX,
    ModelVersion,
    all_pages,
    crown,
    list_versions,
    uncrown,
    version_at,
    version_of,
    version_with_digest,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_FOLDER = "model"
_MAX_PARAM_CHARACTERS = 6000
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Registry:
    """The registry behind `tracking_uri`; new local runs keep their files under `artifact_root`.

    Safe across threads and processes. Every method raises RegistryError when MLflow refuses or
    is out of reach.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path) -> None:
        self._connection = Connection(tracking_uri)
        self._root = artifact_root
        self._seen: dict[str, tuple[tuple[int, int], ModelVersion | None]] = {}

    @classmethod
    def at(cls, folder: Path, tracking_uri: str = "") -> Registry:
        """The registry of a home's MLflow folder: SQLite in it unless a server's URI is given."""
        return cls(tracking_uri or file_uri(folder / "mlflow.db"), folder / "artifacts")

    @property
    def tracking_uri(self) -> str:
        """What to give `mlflow ui --backend-store-uri` (or `MLFLOW_TRACKING_URI`)."""
        return self._connection.uri

    def register(
        self,
        *,
        tenant: str,
        namespace: str,
        kolm: Path,
        digest: str,
        k: float,
        receipt_head: str,
        metrics: Mapping[str, float],
        params: Mapping[str, str],
        loss_curve: Sequence[tuple[int, float]] = (),
        created_at_us: int,
    ) -> int:
        """The version of this artifact, a new one unless its digest is registered already.

        A new version becomes `challenger`; its run holds parameters, metrics, the training curve
        and the `.kolm`.
        """
        name = _model_name(tenant, namespace)
        if not _DIGEST.fullmatch(digest):
            raise RegistryError("a digest is 64 hexadecimal digits")
        if not kolm.is_file():
            raise RegistryError(f"there is no artifact at {kolm}")
        tags = {
            f"{PREFIX}digest": digest,
            f"{PREFIX}k": f"{k:.6f}",
            f"{PREFIX}receipt_head": receipt_head,
            f"{PREFIX}created_at_us": str(created_at_us),
            f"{PREFIX}file": kolm.name,
        }
        with self._connection.writing("register a version") as client:
            version = _known(client, name, digest)
            if version is None:
                points = _metrics({"k_score": k, **metrics}, loss_curve, created_at_us // 1000)
                source, run_id = self._log_run(client, name, kolm, points, params, created_at_us)
                _ensure_model(client, name)
                made = client.create_model_version(
                    name, source, run_id, tags=tags, await_creation_for=0
                )
                client.set_registered_model_alias(name, CHALLENGER, str(made.version))
                version = int(made.version)
        return version

    def promote(self, tenant: str, namespace: str, version: int | None = None) -> ModelVersion:
        """Makes `version` (else the challenger) the champion, and returns it.

        Raises: RegistryError: no challenger, no such version, older than the champion, erased
        or revoked.
        """
        name = _model_name(tenant, namespace)
        with self._connection.writing("promote a version") as client:
            if version is None:
                target = version_at(client, name, CHALLENGER)
            else:
                target = version_of(client, name, version)
            if target is None:
                raise RegistryError(
                    f"{name} has no {'challenger' if version is None else f'version {version}'}",
                    remedy=f"distill one first: apprentice distill --namespace {namespace}",
                )
            current = version_at(client, name, CHAMPION)
            if current is not None and target.version < current.version:
                raise RegistryError(
                    f"version {target.version} of {name} is older than its champion,"
                    f" version {current.version}",
                    remedy="an older version returns by `apprentice rollback --version`",
                )
            return crown(client, name, target, current)

    def rollback(self, tenant: str, namespace: str, version: int | None = None) -> ModelVersion:
        """Makes the champion before this one (or the older `version`) the champion again.

        Raises: RegistryError: no champion, nothing to go back to, erased or revoked.
        """
        name = _model_name(tenant, namespace)
        with self._connection.writing("roll back") as client:
            current = version_at(client, name, CHAMPION)
            if current is None:
                raise RegistryError(
                    f"{name} has no champion to roll back from", remedy="promote a version first"
                )
            return uncrown(client, name, current, version)

    def champion(self, tenant: str, namespace: str) -> ModelVersion | None:
        """The version under the alias `champion`; None without one, or when it is revoked.

        Cheap to poll: over SQLite it asks MLflow only after the file has changed.
        """
        name = _model_name(tenant, namespace)
        if self._connection.is_empty:
            return None
        mark = self._connection.mark()
        if mark is not None and self._seen.get(name, (None, None))[0] == mark:
            return self._seen[name][1]
        with self._connection.reading("read the champion") as client:
            found = version_at(client, name, CHAMPION)
        found = None if found is None or found.revoked else found
        if mark is not None:
            self._seen[name] = (mark, found)
        return found

    def versions(self, tenant: str, namespace: str) -> list[ModelVersion]:
        """Every version, newest first; empty for an unknown namespace."""
        name = _model_name(tenant, namespace)
        if self._connection.is_empty:
            return []
        with self._connection.reading("list versions") as client:
            return list_versions(client, name)

    def names(self) -> list[tuple[str, str]]:
        """Every (tenant, namespace) that has a registered model, sorted."""
        if self._connection.is_empty:
            return []
        with self._connection.reading("list models") as client:
            models = all_pages(lambda token: client.search_registered_models(page_token=token))
            split = [model.name.partition(".") for model in models]
        return sorted((left, right) for left, _, right in split if is_name(left) and is_name(right))

    def fetch(self, version: ModelVersion) -> Path:
        """A local path of the version's `.kolm`, downloaded when it lies elsewhere.

        What comes back is not trusted: verify it before use.
        """
        if version.path is not None and version.path.is_file():
            return version.path
        if not version.file or not _DIGEST.fullmatch(version.digest):
            raise RegistryError(
                f"version {version.version} of {version.tenant}.{version.namespace} holds no .kolm"
            )
        folder = self._root / "fetched" / version.digest
        target = folder / version.file
        if target.is_file():
            return target
        with self._connection.reading("fetch an artifact"):
            from mlflow.artifacts import download_artifacts

            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            address = f"{version.source.rstrip('/')}/{version.file}"
            uri = self._connection.uri
            return Path(download_artifacts(address, dst_path=str(folder), tracking_uri=uri))

    def mark_erased(self, tenant: str, namespace: str, version: int, *, pairs: int) -> None:
        """Notes that `pairs` of the pairs a version was trained on have been erased."""
        self._tag(tenant, namespace, version, "erased_pairs", str(pairs))

    def revoke(self, tenant: str, namespace: str, version: int, *, reason: str) -> None:
        """Forbids serving a version from now on; `reason` is shown to people in MLflow."""
        self._tag(tenant, namespace, version, "revoked", reason or "yes")

    def _tag(self, tenant: str, namespace: str, version: int, key: str, value: str) -> None:
        name = _model_name(tenant, namespace)
        with self._connection.writing("mark a version") as client:
            if version_of(client, name, version) is None:
                raise RegistryError(f"{name} has no version {version}")
            client.set_model_version_tag(name, str(version), f"{PREFIX}{key}", value)

    def _log_run(
        self,
        client: MlflowClient,
        name: str,
        kolm: Path,
        points: Sequence[Metric],
        params: Mapping[str, str],
        created_at_us: int,
    ) -> tuple[str, str]:
        """A finished run with everything in it: the source of the version, and the run's id."""
        from mlflow.entities import Param

        run = client.create_run(
            self._experiment(client, name),
            start_time=created_at_us // 1000,
            run_name=kolm.stem,
            tags={"mlflow.source.name": "apprentice distill", "mlflow.source.type": "JOB"},
        )
        run_id = str(run.info.run_id)
        values = [Param(key, str(text)[:_MAX_PARAM_CHARACTERS]) for key, text in params.items()]
        for start in range(0, len(values), _PARAMS_PER_BATCH):
            client.log_batch(run_id, params=values[start : start + _PARAMS_PER_BATCH])
        for start in range(0, len(points), _METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_BATCH])
        client.log_artifact(run_id, str(kolm), _FOLDER)
        client.set_terminated(run_id)
        return f"{run.info.artifact_uri.rstrip('/')}/{_FOLDER}", run_id

    def _experiment(self, client: MlflowClient, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        is_local = self._connection.database is not None
        location = (self._root / name).absolute().as_uri() if is_local else None
        return str(client.create_experiment(name, artifact_location=location))


def _model_name(tenant: str, namespace: str) -> str:
    if not is_name(tenant) or not is_name(namespace):
        raise RegistryError("a tenant or namespace has a name that none can have")
    return f"{tenant}.{namespace}"


def _known(client: MlflowClient, name: str, digest: str) -> int | None:
    """The version of a digest registered before, made challenger if a crash left it without."""
    found = version_with_digest(client, name, digest)
    if found is None:
        return None
    newest = list_versions(client, name)[0]
    is_free = not (found.aliases or found.revoked or found.rolled_back)
    if found.version == newest.version and is_free:
        client.set_registered_model_alias(name, CHALLENGER, str(found.version))
    return found.version


def _metrics(
    values: Mapping[str, float], loss_curve: Sequence[tuple[int, float]], at_ms: int
) -> list[Metric]:
    from mlflow.entities import Metric

    points = [Metric(key, float(value), at_ms, 0) for key, value in values.items()]
    return points + [Metric("loss", float(loss), at_ms, step) for step, loss in loss_curve]


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, tags={f"{PREFIX}format": "kolm"})
    except MlflowException as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise
