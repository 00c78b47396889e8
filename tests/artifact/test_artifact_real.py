"""With what the libraries really write: PEFT's adapter and transformers' tokenizer, both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apprentice_pipeline.artifact.kolm import (
    KolmContents,
    Signer,
    evals_document,
    model_size_bytes,
    pack,
    read_adapter,
    read_tokenizer,
    unpack,
    verify_kolm,
)
from apprentice_pipeline.evaluate.kscore import ScoreInputs, k_score
from tests.artifact.artifact_parts import TEMPLATE, scored_rows

pytestmark = pytest.mark.filterwarnings("ignore:::transformers", "ignore:::peft", "ignore:::torch")
TURN = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base, a LoRA on it and its tokenizer, as the libraries save them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("trained")
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet
    )
    tokens.train_from_iterator(["hello world"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(1)
    shape = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=300,
    )
    LlamaForCausalLM(shape).save_pretrained(folder / "base")
    model = LlamaForCausalLM.from_pretrained(folder / "base")
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    return folder


def test_what_the_libraries_saved_packs_and_loads_again(
    trained: Path, contents: KolmContents, signer: Signer, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoTokenizer, LlamaForCausalLM

    adapter, tokenizer = read_adapter(trained / "adapter"), read_tokenizer(trained / "tokenizer")
    inputs = ScoreInputs(size_bytes=model_size_bytes(adapter, tokenizer, contents.base.name))
    rows = scored_rows()
    packed = pack(
        replace(
            contents,
            adapter=adapter,
            tokenizer=tokenizer,
            evals=evals_document(rows, inputs, k_score(rows, inputs)),
        ),
        signer,
    )
    assert str(trained).encode() not in packed
    folder = tmp_path / "unpacked"
    unpack(verify_kolm(packed, public_key=signer.public_key), folder)
    base = LlamaForCausalLM.from_pretrained(trained / "base")
    loaded = PeftModel.from_pretrained(base, folder / "adapter")
    assert loaded.peft_config["default"].r == 2
    stock = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    rendered = stock.apply_chat_template(TURN, tokenize=False)
    assert rendered == "<user>hello<eos>"
