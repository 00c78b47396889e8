"""A base small enough to build in a second, real adapters on it, real signed artifacts of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.artifact.kolm import (
    BaseIdentity,
    KolmContents,
    Signer,
    evals_document,
    load_or_create_signer,
    model_size_bytes,
    pack,
    read_adapter,
    read_tokenizer,
    write_kolm,
)
from apprentice_pipeline.config import Config, Local
from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.evaluate.kscore import EvalRow, ScoreInputs, k_score
from apprentice_pipeline.settings import Home, Settings
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers × 32 with random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return load_or_create_signer(tmp_path_factory.mktemp("keys"))


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter with random weights, saved as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    return folder


def pack_adapter(
    base: Path, adapter: Path, signer: Signer, tenant: str, namespace: str, **changes: Any
) -> bytes:
    """A `.kolm` of an adapter, its holdout scores made up."""
    resolved = resolve_base(base)
    identity = BaseIdentity(
        name="tiny-base",
        digest=changes.get("base_digest", resolved.digest),
        context_tokens=resolved.context_tokens,
    )
    rows = [EvalRow(f"{n:064x}", 1.0, True, "", 0.9, 20_000, 1.0, True) for n in range(30)]
    weights, tokenizer = read_adapter(adapter), read_tokenizer(base)
    inputs = ScoreInputs(
        size_bytes=model_size_bytes(weights, tokenizer, identity.name), bootstrap=20
    )
    links = {name: {} for name in ("corpus", "verifier", "holdout", "score", "model", "build")}
    return pack(
        KolmContents(
            tenant=tenant,
            namespace=namespace,
            task=namespace,
            created_at_us=1_700_000_000_000_000,
            base=identity,
            adapter=weights,
            tokenizer=tokenizer,
            links=links,
            evals=evals_document(rows, inputs, k_score(rows, inputs)),
        ),
        signer,
    )


@dataclass(frozen=True)
class Factory:
    """Makes champions: each call trains (draws), packs, signs and writes one."""

    base: Path
    signer: Signer
    folder: Path

    def champion(
        self, namespace: str, *, tenant: str = "default", version: int = 1, **changes: Any
    ) -> ChampionRecord:
        seed = changes.pop("seed", 1)
        adapter = self.folder / f"adapter-{seed}"
        if not adapter.exists():
            make_adapter(self.base, adapter, seed)
        signer = changes.pop("signer", self.signer)
        data = pack_adapter(self.base, adapter, signer, tenant, namespace, **changes)
        path = self.folder / f"{tenant}.{namespace}.{version}.{seed}.kolm"
        digest = write_kolm(path, data)
        return ChampionRecord(tenant, namespace, version, digest, str(path), {}, 0)


@pytest.fixture(scope="session")
def factory(base: Path, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return Factory(base, signer, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="session")
def open_workspace(base: Path, signer: Signer) -> Iterator[Callable[..., Workspace]]:
    """Opens a workspace in a folder, whose server runs the tiny base and trusts `signer`."""
    opened: list[Workspace] = []

    def open_one(home: Path, **local: Any) -> Workspace:
        settings = Settings(
            config=Config(local=Local(base_model=str(base), threads=1, **local)),
            home=Home(home),
            master_key=bytes(32),
            signing_secret=None,
            environment={},
            source="test",
        )
        opened.append(Workspace.open(settings))
        (home / "keys" / "signing.pub").write_bytes(signer.public_key)
        return opened[-1]

    yield open_one
    for workspace in opened:
        workspace.close()
