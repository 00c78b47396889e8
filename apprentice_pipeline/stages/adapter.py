"""Stage 4: LoRA weights from the frozen corpus's train side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from apprentice_pipeline.config import Distill
from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.distill.training import LoraSettings, TrainingRow, train_adapter
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import holdout
from apprentice_pipeline.stages.coaching import training_weights
from apprentice_pipeline.stages.consent import require_consent
from apprentice_pipeline.stages.results import (
    FrozenCorpus,
    TrainedAdapter,
    exclusively,
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
    base = resolve_base(base_model or workspace.config.local.base_model)
    corpus = holdout.reload(workspace, tenant, namespace, frozen).corpus
    settings = lora_settings(workspace.config.distill, len(corpus.train))
    folder = work_folder(workspace, tenant, namespace) / f"adapter-{frozen.root[:16]}"
    drawn = training_weights(workspace, tenant, namespace, corpus.train)
    rows = [
        TrainingRow(messages=tuple(row.messages), completion=row.completion, weight=weight)
        for row, weight in zip(corpus.train, drawn, strict=True)
    ]
    with exclusively(workspace, tenant, namespace):
        report = train_adapter(
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
        settings=dataclasses.asdict(settings),
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
