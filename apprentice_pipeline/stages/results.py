"""What a stage leaves for the next one: small JSON records under the home's work folder.

References, counts and measurements only, never a row's content. A record is replaced
atomically; a stage that finds its predecessor missing says which command makes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from apprentice_pipeline.errors import DistillError, StoreError, UsageError
from apprentice_pipeline.store.rows import record_rows
from apprentice_pipeline.store.sealing import Record
from apprentice_pipeline.store.workspace import Workspace

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenCorpus:
    """The `holdout_split` stage's result: a sealed manifest and what it holds.

    `leaked` counts inputs that stand on both sides, `disagreeing_inputs` those of all `inputs`
    whose answers contradict each other.
    """

    root: str
    path: str
    train: int
    holdout: int
    excluded: dict[str, int]
    slices: dict[str, int]
    disagreeing_share: float
    leaked: int
    at_us: int
    inputs: int = 0
    disagreeing_inputs: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """The `lora_adapter` stage's result; the corpus it names was frozen at `corpus_at_us`."""

    corpus_root: str
    corpus_at_us: int
    folder: str
    base_name: str
    base_path: str
    base_digest: str
    base_license: str
    context_tokens: int
    settings: dict[str, Any]
    rows: int
    seconds: float
    examples_per_second: float
    trainable_parameters: int
    loss_curve: list[tuple[int, float]]
    target_bytes: int | None
    at_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredAdapter:
    """The `kscore_eval` stage's result: K and its parts, the rows' scores, the gate's word."""

    corpus_root: str
    adapter_folder: str
    score: dict[str, Any]
    inputs: dict[str, Any]
    rows: list[dict[str, Any]]
    chance: float
    certificate: dict[str, Any] | None
    evaluator: str
    passed: bool
    failures: list[str]
    remedy: str
    at_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class SignedArtifact:
    """The `signed_artifact` stage's result: a verified `.kolm`."""

    path: str
    digest: str
    size_bytes: int
    k: float
    receipt_head: str
    corpus_root: str
    at_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class RegisteredModel:
    """The `registered_model` stage's result: the version in the registry."""

    model: str
    version: int
    alias: str
    digest: str
    path: str
    at_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reevaluated:
    """What came of the newest re-evaluation: of which alarm and which artifact, on how many rows,
    the correlation and the level it needed."""

    alarm_at_us: int
    digest: str
    rows: int
    kappa: float
    needed: float
    confirmed: bool
    at_us: int


_MADE_BY = {
    FrozenCorpus: "holdout_split",
    TrainedAdapter: "lora_adapter",
    ScoredAdapter: "kscore_eval",
    SignedArtifact: "signed_artifact",
    RegisteredModel: "registered_model",
    Reevaluated: "reevaluation",
}


def work_folder(workspace: Workspace, tenant: str, namespace: str) -> Path:
    """The namespace's folder for results between stages, made if absent (mode 0700)."""
    folder = workspace.home.work / tenant / namespace
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def save(workspace: Workspace, tenant: str, namespace: str, record: Any) -> None:
    """Replaces the stage's record. Raises: StoreError when it cannot be written whole."""
    file = work_folder(workspace, tenant, namespace) / f"{_MADE_BY[type(record)]}.json"
    text = json.dumps(dataclasses.asdict(record), ensure_ascii=False)
    write_atomically(file, text.encode())


def load(workspace: Workspace, tenant: str, namespace: str, kind: type[Result]) -> Result:
    """The stage's newest record. Raises: UsageError naming the asset that must run first."""
    found = load_if_any(workspace, tenant, namespace, kind)
    if found is None:
        raise UsageError(
            f"{tenant}.{namespace} has no {_MADE_BY[kind]} yet",
            remedy=f"run `apprentice distill --namespace {namespace}`, "
            f"or materialize {_MADE_BY[kind]} for this partition",
        )
    return found


def load_if_any(
    workspace: Workspace, tenant: str, namespace: str, kind: type[Result]
) -> Result | None:
    """The stage's newest record, None when the stage has not run."""
    file = workspace.home.work / tenant / namespace / f"{_MADE_BY[kind]}.json"
    if not file.is_file():
        return None
    return kind(**json.loads(file.read_text(encoding="utf-8")))


def write_atomically(file: Path, content: bytes) -> None:
    """Writes and syncs beside `file`, then renames: readers see the old or the new, whole.

    Raises: StoreError (StorageFull where that is the cause).
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open(draft, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(draft, file)
    except OSError as error:
        raise _write_failure(file, error) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def append_records(workspace: Workspace, tenant: str, records: Sequence[Record]) -> None:
    """Seals records (exchanges, verdicts, feedback, …) and appends each to its lake table."""
    for table, rows in record_rows(workspace.vault, tenant, records).items():
        workspace.lake.append(tenant, table, rows)


@contextlib.contextmanager
def exclusively(workspace: Workspace, tenant: str, namespace: str) -> Iterator[None]:
    """Holds the stream for a whole run: corpus, adapter, score and artifact belong together.

    The lock ends with the process, however that ends. Raises: DistillError for a second run.
    """
    workspace.home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(workspace.home.run / f"distill-{tenant}.{namespace}.lock", "wb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DistillError(
                f"{tenant}.{namespace} is being distilled or evaluated by another run",
                remedy="wait for it to end, then run the command again; Dagster (`apprentice dev`) "
                "shows how far it is",
            ) from None
        yield


def _write_failure(file: Path, error: OSError) -> StoreError:
    import errno

    from apprentice_pipeline.errors import StorageFull

    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(
            f"no room to write {file.name} in {file.parent}",
            remedy="free disk space and run the command again; nothing half-written was kept",
        )
    return StoreError(f"cannot write {file}: {error.strerror}", remedy="check its permissions")
