"""Stage 4: LoRA weights from the frozen corpus's train side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from apprentice_pipeline.config import Distill, Local
from apprentice_pipeline.distill.base_model import behind_ollama, can_name_a_base, resolve_base
from apprentice_pipeline.distill.trainers import BUILT_IN, is_there, trainer_of
from apprentice_pipeline.distill.training import LoraSettings, TrainingRow
from apprentice_pipeline.errors import BaseModelMissing, DistillError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import holdout
from apprentice_pipeline.stages.coaching import training_weights
from apprentice_pipeline.stages.consent import require_consent
from apprentice_pipeline.stages.results import (
    FrozenCorpus,
    TrainedAdapter,
    load,
    save,
    work_folder,
)
from apprentice_pipeline.store.workspace import Workspace

EXAMPLES = 8_500
LEAST_EPOCHS = 3

Progress = Callable[[str, int, int, str], None]


def train(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    *,
    base_model: str | None = None,
    target_bytes: int | None = None,
    progress: Progress = lambda *_: None,
) -> TrainedAdapter:
    """Trains on the newest frozen corpus. Raises: ConsentWithheld, BaseModelMissing, DistillError,
    StoreError."""
    require_consent(workspace.config, namespace)
    frozen = load(workspace, tenant, namespace, FrozenCorpus)
    local = workspace.config.local
    chosen = trainer_name(local, base_model)
    if chosen != local.fine_tune_backend:
        progress("trainer", 1, 1, f"{local.fine_tune_backend} is not installed: {chosen} trains")
    trainer = trainer_of(chosen)
    base = resolve_base(base_model or local.base_model, local.model_dir)
    corpus = holdout.reload(workspace, tenant, namespace, frozen).corpus
    settings = lora_settings(workspace.config.distill, len(corpus.train))
    folder = work_folder(workspace, tenant, namespace) / f"adapter-{frozen.root[:16]}"
    drawn = training_weights(workspace, tenant, namespace, corpus.train)
    rows = [
        TrainingRow(messages=tuple(row.messages), completion=row.completion, weight=weight)
        for row, weight in zip(corpus.train, drawn, strict=True)
    ]
    report = trainer(
        rows,
        base.path,
        folder,
        settings,
        lambda step, steps, loss: progress("train", step, steps, f"loss {loss:.3f}"),
    )
    record = TrainedAdapter(
        corpus_root=frozen.root,
        corpus_at_us=frozen.at_us,
        folder=str(folder),
        settings=dataclasses.asdict(settings) | ({} if chosen == BUILT_IN else {"trainer": chosen}),
        rows=report.rows,
        seconds=report.seconds,
        examples_per_second=report.examples_per_second,
        trainable_parameters=report.trainable_parameters,
        loss_curve=[(step, loss) for step, loss in report.loss_curve],
        target_bytes=target_bytes,
        at_us=now_us(),
        base_name=base.name,
        base_path=str(base.path),
        base_digest=base.digest,
        base_license=base.license,
        context_tokens=base.context_tokens,
    )
    save(workspace, tenant, namespace, record)
    return record


def trainer_name(local: Local, base_model: str | None) -> str:
    """Who trains: `local.fine_tune_backend`. A base given for this run (`base_model`) goes to the
    built-in trainer where the configured one is not installed: it trains any base.

    Raises: DistillError (BaseModelMissing where it is the base alone) naming all that is missing
    and what to give.
    """
    name = base_model or local.base_model
    missing = []
    if not can_name_a_base(name, local.model_dir):
        kind = "an Ollama tag" if local.backend == "ollama" else "a name"
        missing.append(
            f"base {name} is no model that can be trained: {kind} that is no folder, none in "
            f"{local.model_dir}, and no Hugging Face id"
        )
    installed = is_there(local.fine_tune_backend)
    if not installed and base_model is None:
        missing.append(f"local.fine_tune_backend {local.fine_tune_backend} is not installed")
    if missing:
        failure = DistillError if len(missing) > 1 or not installed else BaseModelMissing
        raise failure(
            f"nothing was trained: {'; '.join(missing)}",
            remedy=f"give {_bases_to_give(name)}, or set "
            "local.base_model: embedded and local.fine_tune_backend: huggingface in "
            "apprentice.yaml; a package may register another trainer under the entry point "
            "apprentice_pipeline.trainers",
        )
    return local.fine_tune_backend if installed else BUILT_IN


def _bases_to_give(name: str) -> str:
    known = behind_ollama(name)
    same = f"`--base-model {known}` (what Ollama serves as {name}) or " if known else ""
    return f"{same}`--base-model embedded` (or another Hugging Face id, or a folder)"


def lora_settings(distill: Distill, rows: int) -> LoraSettings:
    """The tuned defaults for so many rows, with what the configuration sets on top.

    Epochs fall as rows grow, so that a run sees about `EXAMPLES` examples: fresh rows teach
    more than repeated ones (docs/LOG.md).
    """
    epochs = min(LoraSettings().epochs, max(LEAST_EPOCHS, round(EXAMPLES / rows)))
    names = {field.name for field in dataclasses.fields(LoraSettings)}
    chosen = {
        name: value
        for name, value in distill.model_dump().items()
        if name in names and value is not None
    }
    return LoraSettings(**{"epochs": epochs, **chosen})
