"""LoRA training on captured pairs: the only place that trains with TRL and PEFT.

What belongs here: rows in, an adapter folder out. What does not: choosing rows, scoring the
result, packing it. Promises: rows are read from memory and reach no disk (library caches are
off, the trainer's own folder is private and wiped); nothing is reported to anyone; the adapter
folder appears whole or not at all and holds safetensors and JSON only; the same rows, base,
settings, torch build and thread count give the same adapter.
"""

import contextlib
import errno
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.distill.draws import draw_order
from apprentice_pipeline.distill.loading import load_base
from apprentice_pipeline.distill.rows import EncodedRow, TrainingRow, encode_rows
from apprentice_pipeline.distill.runtime import quiet_libraries, reuse_memory, share_cores
from apprentice_pipeline.errors import DistillError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig, SFTTrainer

__all__ = ["LoraSettings", "TrainingReport", "TrainingRow", "train_adapter"]

OnStep = Callable[[int, int, float], None]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How the adapter is trained; the defaults were tuned on the embedded base.

    `max_length` counts tokens of prompt and completion together; longer rows are left out and
    counted. `target_modules` is PEFT's: "all-linear", or names separated by commas. `noise` is
    NEFTune's alpha (Jain et al. 2024): noise on the embeddings while training, 0 for none.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    epochs: int = 6
    learning_rate: float = 2e-3
    batch_size: int = 16
    max_length: int = 512
    seed: int = 7
    target_modules: str = "all-linear"
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a run did; `loss_curve` holds (step, mean completion loss in nats a token)."""

    rows: int
    steps: int
    seconds: float
    examples_per_second: float
    loss_curve: tuple[tuple[int, float], ...]
    trainable_parameters: int
    skipped_too_long: int


def train_adapter(
    rows: Sequence[TrainingRow],
    base: Path,
    out: Path,
    settings: LoraSettings,
    on_step: OnStep | None = None,
) -> TrainingReport:
    """Trains a LoRA adapter for `base` on `rows` and writes it to the folder `out`.

    `on_step` receives (step, steps, loss) about a hundred times. An adapter already at `out` is
    replaced once the new one is complete.
    Raises: DistillError (no rows, every row too long, loss not finite, no room on the disk),
    BaseModelMissing (no folder, or not a causal language model with a chat template).
    """
    if not rows:
        raise DistillError("no rows to train on", remedy="capture or import more traffic first")
    share_cores()
    started = time.monotonic()
    parent = out.absolute().parent
    try:
        with quiet_libraries(), _private_folder(parent) as folder:
            reuse_memory()
            model, tokenizer = load_base(base)
            fitting = _fitting(encode_rows(rows, tokenizer), settings.max_length)
            watch = _Watch([], on_step)
            trainer = _trainer(model, tokenizer, fitting, folder, settings, watch)
            trainer.train()
            _save(trainer.model, folder / "adapter", base.name)
            _publish(folder / "adapter", out)
            skipped = len(rows) - len(fitting)
            return _report(trainer, watch, len(fitting), skipped, settings.epochs, started)
    except OSError as error:
        raise _disk_error(error, parent) from error


@dataclass(frozen=True, slots=True)
class _Watch:
    curve: list[tuple[int, float]]
    on_step: OnStep | None

    def saw(self, step: int, steps: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise DistillError(
                f"the loss is {loss} at step {step} of {steps}",
                remedy="lower the learning rate, and check the base's weights",
            )
        self.curve.append((step, loss))
        if self.on_step is not None:
            self.on_step(step, steps, loss)


def _fitting(rows: Sequence[EncodedRow], max_length: int) -> list[EncodedRow]:
    fitting = [row for row in rows if len(row.tokens) <= max_length]
    if not fitting:
        raise DistillError(
            f"all {len(rows)} rows are longer than {max_length} tokens",
            remedy="raise max_length, or choose a base with a larger context",
        )
    return fitting


def _trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[EncodedRow],
    folder: Path,
    settings: LoraSettings,
    watch: _Watch,
) -> "SFTTrainer":
    """SFTTrainer over rows already tokenised and ordered, so that it neither maps nor shuffles."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTTrainer

    order = draw_order(
        [len(row.tokens) for row in rows],
        [row.weight for row in rows],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    examples = [_example(row) for row in rows]
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_modules(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model=model,
        args=_arguments(settings, folder, math.ceil(len(order) / settings.batch_size)),
        train_dataset=Dataset.from_list([examples[row] for row in order]),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[_callback(watch)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _example(row: EncodedRow) -> dict[str, list[int]]:
    tokens = list(row.tokens)
    hidden = [-100] * row.prompt_length
    return {"input_ids": tokens, "labels": hidden + tokens[row.prompt_length :]}


def _modules(target: str) -> str | list[str]:
    return target if target == "all-linear" else [name.strip() for name in target.split(",")]


def _arguments(settings: LoraSettings, folder: Path, steps: int) -> "SFTConfig":
    import torch
    from trl import SFTConfig

    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=1,  # the order already holds every epoch
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        max_grad_norm=1.0,
        neftune_noise_alpha=settings.noise or None,
        seed=settings.seed,
        max_length=None,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
    )


def _callback(watch: _Watch) -> "TrainerCallback":
    """TRL reports through callbacks by inheritance only; this one passes the loss on."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _args: Any, state: Any, _: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                watch.saw(state.global_step, state.max_steps, float(logs["loss"]))

    return Progress()


def _save(model: Any, folder: Path, base_name: str) -> None:
    """Writes the adapter's two files; PEFT's model card and the base's path stay out."""
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder, safe_serialization=True)
    except SafetensorError as error:
        raise OSError(errno.EIO, "the adapter could not be written") from error
    for path in folder.iterdir():
        if path.name not in ADAPTER_FILES:
            path.unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _publish(folder: Path, out: Path) -> None:
    """Moves the finished folder to its place; what was there before goes last."""
    former = folder.with_name("former")
    if out.exists():
        out.rename(former)
    folder.rename(out)


@contextlib.contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """A folder only we can read, on the disk the adapter goes to, removed in any case."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".training-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(
    trainer: "SFTTrainer", watch: _Watch, rows: int, skipped: int, epochs: int, started: float
) -> TrainingReport:
    seconds = time.monotonic() - started
    return TrainingReport(
        rows=rows,
        steps=trainer.state.global_step,
        seconds=seconds,
        examples_per_second=rows * epochs / seconds,
        loss_curve=tuple(watch.curve),
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        skipped_too_long=skipped,
    )


def _disk_error(error: OSError, parent: Path) -> DistillError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    free_mb = shutil.disk_usage(parent).free // 2**20 if parent.exists() else 0
    return DistillError(
        f"the adapter could not be written: {'the disk is full' if full else error.strerror}",
        remedy=f"free some space ({free_mb} MB left) and train again; nothing was kept",
    )
