"""A small but complete artifact of real parts: LoRA tensors, a tokenizer, a scored holdout."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.numpy import save

from apprentice_pipeline.artifact.archive import write_archive
from apprentice_pipeline.artifact.canonical import canonical, sha256_hex
from apprentice_pipeline.artifact.kolm import (
    BaseIdentity,
    CardFacts,
    KolmContents,
    Signer,
    evals_document,
    model_size_bytes,
)
from apprentice_pipeline.artifact.members import MANIFEST, SIGNATURE
from apprentice_pipeline.artifact.signing import sign
from apprentice_pipeline.evaluate.kscore import EvalRow, ScoreInputs, k_score

SECRET = b"a secret for tests"
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"


def lora_weights(*, layers: int = 2, width: int = 16, rank: int = 4, seed: int = 0) -> bytes:
    """A safetensors file with the tensors that PEFT would save."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{stem}.lora_A.weight"] = draw.normal(size=(rank, width)).astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = draw.normal(size=(width, rank)).astype(np.float32)
    return save(tensors, metadata={"format": "pt"})


def peft_config(**changes: Any) -> bytes:
    """An adapter configuration with keys as PEFT writes them, the base's path among them."""
    config = {
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"},
        "base_model_name_or_path": "/somewhere/on/a/machine/base",
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "loftq_config": {},
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "qalora_group_size": 16,
        "r": 4,
        "target_modules": ["q_proj", "k_proj"],
        "task_type": "CAUSAL_LM",
        **changes,
    }
    return json.dumps(config).encode()


def tokenizer_members(**changes: bytes) -> dict[str, bytes]:
    """The tokenizer's members; a keyword (`tokenizer_config`, `chat_template`, …) replaces one."""
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    }
    config = {
        "backend": "tokenizers",
        "eos_token": "<eos>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "tokenizer_class": "TokenizersBackend",
    }
    return {
        "tokenizer/tokenizer.json": changes.get("tokenizer", json.dumps(tokenizer).encode()),
        "tokenizer/tokenizer_config.json": changes.get(
            "tokenizer_config", json.dumps(config).encode()
        ),
        "tokenizer/chat_template.jinja": changes.get("chat_template", TEMPLATE.encode()),
    }


def scored_rows(count: int = 120) -> list[EvalRow]:
    """A holdout with one wrong answer in ten."""
    return [
        EvalRow(
            row_hash=f"{number:064x}",
            score=0.0 if number % 10 == 0 else 1.0,
            valid=True,
            slice=f"s{number % 2}",
            confidence=0.5 + number / 10_000,
            latency_us=50_000 + number,
            weight=1.0,
            verified=True,
        )
        for number in range(count)
    ]


def make_contents(rows: int = 120, **weights: int) -> KolmContents:
    """What `pack` takes, whole and consistent."""
    base = BaseIdentity(
        name="embedded-base",
        digest="ab" * 32,
        license="Apache-2.0",
        attribution="Apprentice Pipeline authors",
        context_tokens=1024,
    )
    adapter = {
        "adapter/adapter_model.safetensors": lora_weights(**weights),
        "adapter/adapter_config.json": peft_config(),
    }
    tokenizer = tokenizer_members()
    inputs = ScoreInputs(
        size_bytes=model_size_bytes(adapter, tokenizer, base.name),
        teacher_latency_us=900_000,
        local_cost_usd=0.0,
        remote_cost_usd=0.004,
        bootstrap=200,
    )
    held = scored_rows(rows)
    return KolmContents(
        tenant="default",
        namespace="prod-tickets",
        task="classify_ticket",
        created_at_us=1_700_000_000_123_456,
        base=base,
        adapter=adapter,
        tokenizer=tokenizer,
        links={
            "corpus": {"merkle_root": "cd" * 32, "train": 800},
            "verifier": {"verifier": "resample", "verified": 920, "quarantined": 12},
            "holdout": {"merkle_root": "ef" * 32},
            "score": {"gate": 0.85},
            "model": {"rank": 4, "seed": 17},
            "build": {"steps": 300, "trainer": "huggingface"},
        },
        evals=evals_document(held, inputs, k_score(held, inputs)),
        card=CardFacts(
            description="Classify support tickets by category and priority",
            limits=("English only.",),
            teachers=("claude-sonnet-4-5-20250929",),
            provenance={"pairs captured": 1000, "pairs verified": 920},
        ),
        facts={"chance": 0.1, "evaluator": "structured_match", "context_tokens": 1024},
    )


def changed(contents: KolmContents, **changes: Any) -> KolmContents:
    """The contents with fields replaced."""
    return replace(contents, **changes)


def resigned(members: dict[str, bytes], signer: Signer) -> bytes:
    """An artifact of these members whose digests, head and signature are right: only the
    content can be at fault."""
    members = {name: data for name, data in members.items() if name != SIGNATURE}
    manifest = json.loads(members[MANIFEST])
    manifest["members"] = {
        name: {"sha256": sha256_hex(data), "size": len(data)}
        for name, data in members.items()
        if name != MANIFEST
    }
    members[MANIFEST] = canonical(manifest)
    return write_archive({**members, SIGNATURE: sign(members, signer)})
