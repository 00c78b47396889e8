"""The embedded base as it is shipped, and the recipe that makes one."""

import json
from pathlib import Path
from typing import Any

import pytest

import apprentice_pipeline.demo.pretrain as pretrain
from apprentice_pipeline.distill.base_model import resolve_base

FOLDER = resolve_base("embedded").path


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


def test_it_is_small_and_holds_neither_pickles_nor_code() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 16 * 2**20
    assert {p.suffix for p in FOLDER.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}


def test_its_card_names_source_and_licence() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for named in ("CC BY-SA 4.0", "Schema-Guided Dialogue", "Rastogi", "Changes:"):
        assert named in card


def test_it_loads_as_a_plain_llama(tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    assert model.config.model_type == "llama"
    assert model.num_parameters() < 7_500_000
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("text", ["Grüße, 世界 🌍", "freeze my card", 'a\n\t"b" ', "مرحبا", "\x00"])
def test_text_of_any_script_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_template_knows_a_system_role(tokenizer: Any) -> None:
    conversation = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    rendered = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|system|> Answer.<|end|><|user|> hello<|end|><|assistant|>"


def test_the_recipe_gives_the_same_weights_twice(tmp_path: Path) -> None:
    turns = tmp_path / "turns.jsonl"
    turns.write_text("".join(json.dumps(_turn(n)) + "\n" for n in range(120)), encoding="utf-8")
    shape = pretrain.Shape(vocabulary=400, width=32, inner=64, layers=2, heads=2)
    schedule = pretrain.Schedule(cycles=(3, 2), batch_size=4, warm_up_steps=2)
    for name in ("a", "b"):
        pretrain.pretrain(turns, tmp_path / name, shape, schedule, seed=1)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["seed"] == 1
    assert "CC BY-SA 4.0" in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


def _turn(n: int) -> dict[str, object]:
    place, thing = ("Paris", "Rome", "Oslo")[n % 3], ("flight", "hotel", "museum")[n % 3]
    return {
        "text": f"Please find a {thing} number {n} in {place} for tomorrow morning.",
        "service": "Travel",
        "intent": f"Find{thing.title()}",
        "slots": {"city": place},
        "system": "Where do you want to go?" if n % 2 else "",
    }
