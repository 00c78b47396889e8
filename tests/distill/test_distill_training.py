"""What training promises: an adapter whole or not at all, no traces, clear refusals."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from apprentice_pipeline.distill.training import LoraSettings, TrainingRow, train_adapter
from apprentice_pipeline.errors import BaseModelMissing, DistillError

QUICK = LoraSettings(rank=4, alpha=8, epochs=2, batch_size=4, learning_rate=5e-3, max_length=96)
CANARY = "canary-7f3a91"


def rows(count: int = 12) -> list[TrainingRow]:
    asked = ("please check my balance", "freeze the card")
    return [
        TrainingRow(
            ({"role": "system", "content": "Answer."}, {"role": "user", "content": asked[n % 2]}),
            '{"intent":"' + ("balance", "freeze")[n % 2] + '"}',
        )
        for n in range(count)
    ]


def test_writes_only_safetensors_and_json_that_name_no_path(
    tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    report = train_adapter(rows(), tiny_base, out, QUICK)
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert list(tmp_path.iterdir()) == [out]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-base"
    assert str(tmp_path) not in json.dumps(config)
    assert (report.rows, report.steps, report.skipped_too_long) == (12, 6, 0)
    assert report.trainable_parameters > 0
    assert report.examples_per_second > 0


def test_the_loss_falls_and_every_step_is_reported(tiny_base: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    settings = replace(QUICK, epochs=8, learning_rate=2e-2)
    report = train_adapter(
        rows(), tiny_base, tmp_path / "a", settings, lambda *step: seen.append(step)
    )
    assert [step for step, _, _ in seen] == list(range(1, 25))
    assert {steps for _, steps, _ in seen} == {24}
    assert report.loss_curve == tuple((step, loss) for step, _, loss in seen)
    assert report.loss_curve[-1][1] < report.loss_curve[0][1] - 0.5


def test_the_same_rows_and_seed_give_the_same_adapter(tiny_base: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_adapter(rows(), tiny_base, tmp_path / name, replace(QUICK, seed=seed))
    a, b, c = ((tmp_path / n / "adapter_model.safetensors").read_bytes() for n in "abc")
    assert a == b
    assert a != c


def test_a_new_adapter_replaces_the_former(tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    out.mkdir()
    (out / "stale.txt").write_text("former")
    train_adapter(rows(), tiny_base, out, QUICK)
    assert not (out / "stale.txt").exists()


def test_rows_longer_than_the_limit_are_counted_not_cut(tiny_base: Path, tmp_path: Path) -> None:
    long = TrainingRow(({"role": "user", "content": "card " * 200},), "{}")
    report = train_adapter([*rows(), long], tiny_base, tmp_path / "a", QUICK)
    assert (report.rows, report.skipped_too_long) == (12, 1)


def test_refuses_when_every_row_is_too_long(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="longer than 4 tokens"):
        train_adapter(rows(), tiny_base, tmp_path / "a", replace(QUICK, max_length=4))
    assert list(tmp_path.iterdir()) == []


def test_refuses_without_rows(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="no rows"):
        train_adapter([], tiny_base, tmp_path / "a", QUICK)


def test_refuses_a_weight_of_zero(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="weight"):
        train_adapter([replace(rows()[0], weight=0.0)], tiny_base, tmp_path / "a", QUICK)


def test_refuses_a_base_that_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMissing, match="no model"):
        train_adapter(rows(), tmp_path / "nowhere", tmp_path / "a", QUICK)


def test_refuses_a_base_whose_weights_are_damaged(tiny_base: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_base, damaged)
    (damaged / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BaseModelMissing, match="does not load"):
        train_adapter(rows(), damaged, tmp_path / "a", QUICK)


def test_refuses_a_loss_that_is_not_finite_and_leaves_nothing(
    tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "bases" / "broken"
    shutil.copytree(tiny_base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out" / "a"
    with pytest.raises(DistillError, match="the loss is nan"):
        train_adapter(rows(), broken, out, QUICK)
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_is_reported_and_the_former_adapter_stays(
    tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    out.mkdir()
    (out / "adapter_config.json").write_text("former")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, steps: int, _: float) -> None:
        if step == steps:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    try:
        with pytest.raises(DistillError, match="could not be written"):
            train_adapter(rows(), tiny_base, out, QUICK, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (out / "adapter_config.json").read_text() == "former"
    assert list(tmp_path.iterdir()) == [out]


def test_customer_text_reaches_no_file_and_no_stream(
    tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    secret = TrainingRow(({"role": "user", "content": CANARY},), CANARY)

    def look(*_: object) -> None:
        held = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
        assert not any(CANARY.encode() in content for content in held)

    train_adapter([secret] * 8, tiny_base, out, QUICK, look)
    look()
    assert capfd.readouterr() == ("", "")
