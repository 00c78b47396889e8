"""A real base, however small: a two-layer Llama with its own tokenizer and chat template."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from apprentice_pipeline.demo.pretraining.optimise import Shape, new_model
    from apprentice_pipeline.demo.pretraining.vocabulary import train_tokenizer

    folder = tmp_path_factory.mktemp("bases") / "tiny-base"
    shape = Shape(vocabulary=420, width=32, inner=64, layers=2, heads=2, context_tokens=256)
    words = ["please check my balance", "freeze the card", '{"intent":"balance"}', "Answer."] * 9
    tokenizer = train_tokenizer(words, shape.vocabulary, shape.context_tokens)
    model = new_model(shape, tokenizer, seed=3)
    # Untrained embeddings are so small that no adapter could make a token likely.
    model.get_input_embeddings().weight.data.mul_(25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
