"""The pieces on their own: canonical JSON, receipt, keys, weights, templates, bill of materials."""

from __future__ import annotations

import itertools
import json
import math
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from apprentice_pipeline.artifact.adapter_config import check_adapter_config, normal_adapter_config
from apprentice_pipeline.artifact.archive import read_archive
from apprentice_pipeline.artifact.canonical import canonical, read_canonical, read_json
from apprentice_pipeline.artifact.chat_template import check_chat_template
from apprentice_pipeline.artifact.kolm import Signer, load_or_create_signer, trusted_key
from apprentice_pipeline.artifact.packing import read_adapter
from apprentice_pipeline.artifact.receipt import (
    LINKS,
    build_receipt,
    check_receipt,
    diff_receipts,
    receipt_head,
)
from apprentice_pipeline.artifact.tokenizer_files import check_tokenizer, read_tokenizer
from apprentice_pipeline.artifact.weights import check_weights, parameter_count
from apprentice_pipeline.errors import ArtifactError
from tests.artifact.artifact_parts import TEMPLATE, lora_weights, peft_config, tokenizer_members

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
FACTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9), max_size=3)


@given(JSON)
def test_canonical_json_reads_back_and_has_one_spelling(value: Any) -> None:
    data = canonical(value)
    assert read_canonical(data, "x") == value
    assert canonical(read_json(data, "x")) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":2}', "holds a key twice"),
        (b'{"a": 1}', "not in canonical form"),
        (b"[NaN]", "not finite"),
        (b"[" * 100_000, "nests too deep"),
        (b"\xff", "not UTF-8"),
        (b"{", "not JSON"),
    ],
)
def test_json_with_surprises_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_canonical(data, "the document")


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**60, {1: 2}, object(), b"x"])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(ArtifactError, match="canonical JSON"):
        canonical({"fact": value})


@given(st.lists(FACTS, min_size=6, max_size=6), st.binary(min_size=1, max_size=16) | st.none())
def test_a_receipt_checks_with_its_secret_and_without(
    facts: list[dict[str, int]], secret: bytes | None
) -> None:
    chain = build_receipt(list(zip(LINKS, facts, strict=True)), secret=secret)
    assert check_receipt(chain) is False
    if secret is not None:
        assert check_receipt(chain, secret) is True
        with pytest.raises(ArtifactError, match="link corpus: its mac does not match"):
            check_receipt(chain, secret + b"!")


@given(st.integers(0, 5), st.sampled_from(["facts", "mac", "prev", "link"]))
def test_a_changed_link_breaks_the_chain_or_its_head(at: int, field: str) -> None:
    """A stranger sees it at the next link, or at the head for the last one."""
    chain = build_receipt([(name, {"n": 1}) for name in LINKS], secret=b"secret")
    head = receipt_head(chain)
    spoilt = json.loads(json.dumps(chain))
    change = {"facts": {"n": 2}, "mac": "0" * 64, "prev": "0" * 64, "link": "other"}
    spoilt[at][field] = change[field]
    if field in ("facts", "mac") and at == 5:
        assert check_receipt(spoilt) is False
        assert receipt_head(spoilt) != head
    else:
        with pytest.raises(ArtifactError):
            check_receipt(spoilt)
    with pytest.raises(ArtifactError):
        check_receipt(spoilt, b"secret")


def test_a_receipt_without_any_mac_passes_a_secret_and_one_with_some_missing_does_not() -> None:
    links = [(name, {"n": 1}) for name in LINKS]
    assert check_receipt(build_receipt(links, secret=None), b"secret") is False
    for at, name in enumerate(LINKS):
        chain = build_receipt(links, secret=b"secret")
        chain[at]["mac"] = None
        for before, after in itertools.pairwise(chain):  # as whoever rebuilds `prev` would
            after["prev"] = receipt_head([before])
        with pytest.raises(ArtifactError, match=f"link {name}: its mac is missing"):
            check_receipt(chain, b"secret")


def test_whoever_rebuilds_the_chain_without_the_secret_is_found_by_its_macs() -> None:
    honest = build_receipt([(name, {"n": 1}) for name in LINKS], secret=b"secret")
    forged = build_receipt([(name, {"n": 2}) for name in LINKS], secret=b"guess")
    assert check_receipt(forged) is False
    with pytest.raises(ArtifactError, match="its mac does not match"):
        check_receipt(forged, b"secret")
    assert diff_receipts(honest, forged)["score"] == {"n": [1, 2]}


def test_the_key_pair_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = load_or_create_signer(tmp_path / "keys")
    assert load_or_create_signer(tmp_path / "keys") == first
    assert trusted_key(tmp_path / "keys") == first.public_key
    assert stat.S_IMODE(first.private_key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert sorted(f.name for f in (tmp_path / "keys").iterdir()) == ["signing.key", "signing.pub"]


def test_two_processes_that_start_at_once_use_one_key(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from apprentice_pipeline.artifact.signing import load_or_create_signer;"
        "print(load_or_create_signer(Path(sys.argv[1])).fingerprint)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "keys")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate(timeout=120)[0] for process in running}) == 1


def test_configured_keys_are_used_and_must_belong_together(tmp_path: Path, signer: Signer) -> None:
    public = tmp_path / "key.pub"
    public.write_bytes(signer.public_key)
    private = str(signer.private_key)
    given = load_or_create_signer(tmp_path, private_key=private, public_key=str(public))
    assert given.public_key == signer.public_key
    assert not (tmp_path / "signing.key").exists()
    stranger = load_or_create_signer(tmp_path / "other")
    with pytest.raises(ArtifactError, match="does not belong to"):
        load_or_create_signer(
            tmp_path, private_key=str(stranger.private_key), public_key=str(public)
        )
    with pytest.raises(ArtifactError, match=r"without signing\.private_key"):
        load_or_create_signer(tmp_path, public_key=str(public))
    with pytest.raises(ArtifactError, match="cannot read the signing key"):
        load_or_create_signer(tmp_path, private_key=str(tmp_path / "absent"))


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    file = tmp_path / "p384.key"
    file.write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ArtifactError, match="not an ECDSA P-256 key"):
        load_or_create_signer(tmp_path, private_key=str(file))
    file.write_text("nothing")
    with pytest.raises(ArtifactError, match="not an unencrypted private key"):
        load_or_create_signer(tmp_path, private_key=str(file))
    with pytest.raises(ArtifactError, match="not a public key in PEM form"):
        trusted_key(tmp_path, public_key=str(file))
    with pytest.raises(ArtifactError, match="no public key to trust"):
        trusted_key(tmp_path)


def test_lora_weights_pass_and_are_counted() -> None:
    tensors = check_weights(lora_weights(layers=3, width=8, rank=2))
    assert len(tensors) == 6
    assert parameter_count(tensors) == 3 * 2 * 8 * 2


LORA = "base_model.model.model.layers.0.q_proj.lora_A.weight"


def weights_file(header: Any, data: bytes = b"\0" * 64) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(dtype: Any = "F32", shape: Any = (4, 4), offsets: Any = (0, 64)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LYING_HEADERS: dict[str, tuple[bytes, str]] = {
    "longer-than-file": (struct.pack("<Q", 999) + b"{}", "claims more bytes than the file has"),
    "no-json": (weights_file(b"{x"), "the header is not JSON"),
    "no-mapping": (weights_file([]), "the header is not a mapping"),
    "no-tensor": (weights_file({}, b""), "holds no tensor"),
    "metadata": (weights_file({"__metadata__": {"note": "x"}, LORA: tensor()}), "the metadata"),
    "base-weight": (weights_file({"model.embed_tokens.weight": tensor()}), "is not a LoRA weight"),
    "path-name": (weights_file({"../lora_A.weight": tensor()}), "is not a LoRA weight"),
    "extra-key": (
        weights_file({LORA: {**tensor(), "code": 1}}),
        "not described as the format says",
    ),
    "dtype": (weights_file({LORA: tensor(dtype="I64")}), "element type that is not allowed"),
    "dtype-list": (weights_file({LORA: tensor(dtype=["F32"])}), "element type that is not allowed"),
    "negative": (weights_file({LORA: tensor(shape=(-4, -4))}), "impossible shape"),
    "boolean": (weights_file({LORA: tensor(shape=(True, 16))}), "impossible shape"),
    "huge": (weights_file({LORA: tensor(shape=(1 << 50, 1))}), "impossible shape"),
    "wrong-size": (weights_file({LORA: tensor(offsets=(0, 32))}), "another size than its shape"),
    "outside": (weights_file({LORA: tensor()}, b"\0" * 32), "lies outside the file"),
    "gap": (weights_file({LORA: tensor(offsets=(8, 72))}, b"\0" * 72), "belong to none"),
    "overlap": (
        weights_file({LORA: tensor(), LORA.replace("_A", "_B"): tensor()}),
        "overlaps another",
    ),
    "left-over": (weights_file({LORA: tensor()}, b"\0" * 80), "16 bytes after the last tensor"),
}


@pytest.mark.parametrize("defect", LYING_HEADERS)
def test_a_header_that_lies_is_refused_without_loading(defect: str) -> None:
    data, message = LYING_HEADERS[defect]
    with pytest.raises(ArtifactError, match=message):
        check_weights(data)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 16), st.sampled_from(["float32", "float16"]))
def test_whatever_the_library_saves_passes(rank: int, width: int, dtype: str) -> None:
    tensors = {
        f"base_model.model.h.{n}.lora_A.weight": np.zeros((rank, width), dtype) for n in (0, 1)
    }
    assert parameter_count(check_weights(save(tensors))) == 2 * rank * width


@given(st.binary(max_size=300))
def test_no_bytes_bring_the_header_reader_down(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        check_weights(data)


def test_an_adapter_configuration_loses_paths_and_the_order_of_hashes() -> None:
    one = normal_adapter_config(peft_config(target_modules=["b", "a"]), "base")
    two = normal_adapter_config(peft_config(target_modules=["a", "b"]), "base")
    assert one == two
    config = check_adapter_config(one, "base")
    assert config.target_modules == ["a", "b"]
    assert config.base_model_name_or_path == "base"
    assert b"somewhere" not in one
    assert (
        check_adapter_config(
            normal_adapter_config(peft_config(target_modules="all-linear"), "base"), "base"
        ).target_modules
        == "all-linear"
    )


@pytest.mark.parametrize(
    "feature",
    [
        {"modules_to_save": ["lm_head"]},
        {"megatron_config": {"a": 1}},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["x"]},
        {"megatron_core": "evil.module"},
        {"eva_config": {"rho": 2}},
        {"layer_replication": [[0, 4]]},
    ],
)
def test_a_feature_beyond_plain_lora_is_not_packed(feature: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=f"the key {next(iter(feature))} is not allowed"):
        normal_adapter_config(peft_config(**feature), "base")


def test_an_adapter_folder_gives_its_two_files_and_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(lora_weights())
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ArtifactError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(peft_config())
    assert sorted(read_adapter(tmp_path)) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ]


def test_a_tokenizer_folder_is_read_without_its_machine(tmp_path: Path) -> None:
    """Paths are dropped, a template inside the configuration becomes its own file."""
    members = tokenizer_members()
    config = json.loads(members["tokenizer/tokenizer_config.json"])
    config |= {"name_or_path": "/home/someone/base", "is_local": True, "chat_template": TEMPLATE}
    (tmp_path / "tokenizer.json").write_bytes(members["tokenizer/tokenizer.json"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("x")
    read = read_tokenizer(tmp_path)
    assert sorted(read) == sorted(members)
    assert read["tokenizer/chat_template.jinja"].decode() == TEMPLATE
    assert b"someone" not in read["tokenizer/tokenizer_config.json"]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoTokenizer": ["x.Y", None]}})
    )
    with pytest.raises(ArtifactError, match="auto_map is not allowed"):
        read_tokenizer(tmp_path)


def test_ordinary_templates_pass() -> None:
    """Special tokens, refusals of a system message, loop controls, generation marks, tools."""
    for source in (
        TEMPLATE,
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ bos_token }}{{ m.content | trim }}{% endfor %}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') }}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}",
    ):
        check_chat_template(source.encode(), {"bos_token": "<s>", "eos_token": "</s>"})


HOSTILE: dict[str, tuple[str, str]] = {
    "syntax": ("{% if %}", "does not compile"),
    "include": ("{% include '/etc/passwd' %}", "fails on an ordinary conversation"),
    "dunder": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "the sandbox forbids"),
    "mutation": ("{{ messages.append(1) }}", "the sandbox forbids"),
    "always-refuses": ("{{ raise_exception('no') }}", "fails on an ordinary conversation"),
    "division": ("{{ 1 / 0 }}", "fails on an ordinary conversation"),
    "long": ("{% for a in range(90000) %}xxxxxxxxxx{% endfor %}", "far more text"),
    "memory": ("{{ 'x' * 10 ** 10 }}", "too much memory|far more text"),
    "endless": (
        "{% set r = range(90000) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}"
        "{% endfor %}{% endfor %}",
        "takes too long",
    ),
    "text": ("\udcff", "not UTF-8"),
    "large": ("x" * 70_000, "70000 characters, more than 65536"),
}


@pytest.mark.parametrize("defect", HOSTILE)
def test_a_hostile_template_is_refused_and_cannot_stall_the_caller(defect: str) -> None:
    source, message = HOSTILE[defect]
    started = time.monotonic()
    with pytest.raises(ArtifactError, match=message) as refusal:
        check_chat_template(source.encode("utf-8", "surrogateescape"))
    assert time.monotonic() - started < 90
    assert source[:20] not in str(refusal.value)


def test_tokenizer_sizes_are_capped() -> None:
    members = tokenizer_members(tokenizer_config=b" " * ((1 << 20) + 1))
    with pytest.raises(ArtifactError, match="more than 1048576 bytes"):
        check_tokenizer(members)


def test_the_bill_of_materials_is_valid_cyclonedx(artifact: bytes) -> None:
    """Validated offline against the published 1.6 schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = read_archive(artifact)["bom.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = read_json(text.encode(), "bom")
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"][0]["content"] == model["version"]
    base, corpus = bom["components"]
    assert base["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert base["hashes"][0]["content"] == "ab" * 32
    assert corpus["hashes"][0]["content"] == "cd" * 32
    assert [part["name"] for part in model["components"]][:2] == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ]
