"""Who trains: the built-in LoRA training, or a function from outside.

Belongs here: names to trainers, and what a trainer from outside must leave behind. Does not:
training (`training`), choosing rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from apprentice_pipeline import parts
from apprentice_pipeline.distill.training import (
    ADAPTER_FILES,
    LoraSettings,
    OnStep,
    TrainingReport,
    TrainingRow,
    train_adapter,
)
from apprentice_pipeline.errors import ConfigError, DistillError

BUILT_IN = "huggingface"

Trainer = Callable[[Sequence[TrainingRow], Path, Path, LoraSettings, OnStep | None], TrainingReport]
"""`trainer(rows, base, out, settings, on_step)`: see `training.train_adapter`."""


def is_there(name: str) -> bool:
    """Whether a trainer of that name is built in, registered, or named by a dotted path."""
    return name == BUILT_IN or parts.is_dotted(name) or parts.is_registered(parts.TRAINERS, name)


def trainer_of(name: str) -> Trainer:
    """The trainer of `local.fine_tune_backend`. Raises: ConfigError when it cannot be loaded."""
    if name == BUILT_IN:
        return train_adapter
    found = parts.load(parts.TRAINERS, name)
    if not callable(found):
        raise ConfigError(
            [f"{parts.TRAINERS.key}: {name} is not a function"],
            source="apprentice.yaml",
            remedy="name a function of (rows, base, out, settings, on_step)",
        )

    def train(
        rows: Sequence[TrainingRow],
        base: Path,
        out: Path,
        settings: LoraSettings,
        on_step: OnStep | None = None,
    ) -> TrainingReport:
        return _checked(found(rows, base, out, settings, on_step), name, out)

    return train


def _checked(report: object, name: str, out: Path) -> TrainingReport:
    missing = [file for file in ADAPTER_FILES if not (out / file).is_file()]
    if missing:
        raise DistillError(
            f"trainer {name} left no {' and no '.join(missing)}",
            remedy="a trainer writes a PEFT LoRA adapter to the folder `out`",
        )
    if not isinstance(report, TrainingReport):
        raise DistillError(
            f"trainer {name} gave a {type(report).__name__}, not a report",
            remedy="return an apprentice_pipeline.distill.training.TrainingReport",
        )
    return report
