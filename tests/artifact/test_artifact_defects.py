"""One corrupt file per defect, named by the defect: each is refused with its own message.

The first table breaks the container or changes a signed byte; the second is signed with the
trusted key, so that only the content is at fault.
"""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.artifact import archive as archive_module
from apprentice_pipeline.artifact.archive import read_archive, write_archive
from apprentice_pipeline.artifact.canonical import canonical
from apprentice_pipeline.artifact.kolm import Signer, verify_kolm
from apprentice_pipeline.artifact.members import MEMBERS
from apprentice_pipeline.artifact.receipt import receipt_head
from apprentice_pipeline.errors import ArtifactError
from tests.artifact.artifact_parts import SECRET, peft_config, resigned

Members = dict[str, bytes]
WEIGHTS = "adapter/adapter_model.safetensors"


def zipped(
    members: Members,
    *extra: tuple[str, bytes],
    compression: int = zipfile.ZIP_STORED,
    mode: int = 0,
) -> bytes:
    """A zip of members made without our writer, `extra` added as named, `mode` on the last."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        entries = [*sorted(members.items()), *extra]
        for number, (name, data) in enumerate(entries):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = compression
            if mode and number == len(entries) - 1:
                entry.external_attr = mode << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def without(members: Members, name: str) -> Members:
    return {key: data for key, data in members.items() if key != name}


def with_flag(data: bytes, flag: int) -> bytes:
    """Sets a general-purpose flag on the first entry of the central directory."""
    position = data.index(b"PK\x01\x02") + 8
    flags = struct.unpack_from("<H", data, position)[0] | flag
    return data[:position] + struct.pack("<H", flags) + data[position + 2 :]


def with_size(data: bytes, size: int) -> bytes:
    """Claims another size for the first entry of the central directory."""
    position = data.index(b"PK\x01\x02") + 20
    return data[:position] + struct.pack("<LL", size, size) + data[position + 8 :]


def with_end(data: bytes, offset: int, fmt: str, value: int) -> bytes:
    """Changes a field of the end record."""
    end = bytearray(data)
    struct.pack_into(fmt, end, len(data) - 22 + offset, value)
    return bytes(end)


def flipped(data: bytes, needle: bytes) -> bytes:
    """Changes one bit in the first occurrence of `needle`."""
    position = data.index(needle)
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


CONTAINER: dict[str, tuple[Callable[[bytes, Members], bytes], str]] = {
    "empty": (lambda d, m: b"", "not a zip, or its end is cut off"),
    "no-zip": (lambda d, m: b"x" * 5000, "not a zip, or its end is cut off"),
    "cut-off": (lambda d, m: d[:-5], "not a zip, or its end is cut off"),
    "bytes-in-front": (lambda d, m: b"MZ" + d, "2 bytes stand before the zip"),
    "bytes-behind": (lambda d, m: d + b"tail", "4 bytes follow the end of the zip"),
    "comment": (lambda d, m: with_end(d, 20, "<H", 4) + b"note", "carries a comment"),
    "zip64": (lambda d, m: with_end(d, 10, "<H", 0xFFFF), "zip64"),
    "directory-outside": (lambda d, m: with_end(d, 16, "<L", 1 << 30), "lies outside the file"),
    "too-many-members": (lambda d, m: with_end(d, 10, "<H", 33), "33 members, more than 32"),
    "damaged-directory": (lambda d, m: d.replace(b"PK\x01\x02", b"PK\x01\x00"), "is damaged"),
    "unknown-member": (lambda d, m: zipped(m, ("run.py", b"")), "'run.py' is unknown"),
    "pickle-member": (
        lambda d, m: zipped(m, ("adapter/training_args.bin", b"")),
        "'adapter/training_args.bin' is unknown",
    ),
    "missing-member": (lambda d, m: write_archive(without(m, WEIGHTS)), f"{WEIGHTS} is missing"),
    "missing-signature": (
        lambda d, m: write_archive(without(m, "model.sig")),
        "model.sig is missing",
    ),
    "parent-path": (lambda d, m: zipped(m, ("../evil", b"")), "escapes the artifact's folder"),
    "absolute-path": (lambda d, m: zipped(m, ("/etc/evil", b"")), "escapes the artifact's folder"),
    "drive-path": (lambda d, m: zipped(m, ("c:/evil", b"")), "escapes the artifact's folder"),
    "backslash-path": (lambda d, m: zipped(m, ("..\\evil", b"")), "escapes the artifact's folder"),
    "compressed": (
        lambda d, m: zipped(m, compression=zipfile.ZIP_DEFLATED),
        "is compressed; members are stored",
    ),
    "symbolic-link": (
        lambda d, m: zipped(
            without(m, WEIGHTS), (WEIGHTS, b"/etc/passwd"), mode=stat.S_IFLNK | 0o777
        ),
        "is a symbolic link",
    ),
    "encrypted": (lambda d, m: with_flag(d, 1), "is encrypted"),
    "oversized": (lambda d, m: with_size(d, 1 << 30), "bytes, more than"),
    "checksum": (lambda d, m: flipped(d, b"library_name"), "its checksum or header does not match"),
    "other-times": (lambda d, m: zipped(m, mode=0o100644), "not in the deterministic form"),
    "changed-adapter": (
        lambda d, m: write_archive({**m, WEIGHTS: flipped(m[WEIGHTS], b"\x00")}),
        f"{WEIGHTS} is not the one the manifest names",
    ),
    "changed-manifest": (
        lambda d, m: write_archive({**m, "manifest.json": flipped(m["manifest.json"], b"prod")}),
        "signature does not match the artifact",
    ),
    "stranger-signature": (
        lambda d, m: write_archive({**m, "model.sig": flipped(m["model.sig"], b'"payload":"e')}),
        "is not JSON|does not match",
    ),
    "no-bundle": (lambda d, m: write_archive({**m, "model.sig": b"{}"}), "not a bundle"),
    "certificate-bundle": (
        lambda d, m: write_archive({**m, "model.sig": b'{"verificationMaterial":{}}'}),
        "not a bundle signed with a key",
    ),
}


@pytest.mark.parametrize("defect", CONTAINER)
def test_a_broken_container_is_refused_with_its_own_message(
    defect: str, artifact: bytes, signer: Signer, tmp_path: Path
) -> None:
    spoil, message = CONTAINER[defect]
    file = tmp_path / f"{defect}.kolm"
    file.write_bytes(spoil(artifact, read_archive(artifact)))
    with pytest.raises(ArtifactError, match=message):
        verify_kolm(file, public_key=signer.public_key, secret=SECRET)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice_is_refused(artifact: bytes, signer: Signer) -> None:
    """Zip readers differ in which of the two they show: a way to sign one and run another."""
    twice = zipped(read_archive(artifact), ("manifest.json", b"{}"))
    with pytest.raises(ArtifactError, match=r"'manifest\.json' stands twice"):
        verify_kolm(twice, public_key=signer.public_key)


def test_an_absent_file_is_named(tmp_path: Path, signer: Signer) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*No such file"):
        verify_kolm(tmp_path / "absent.kolm", public_key=signer.public_key)


def edited(name: str, **changes: Any) -> Callable[[Members], Members]:
    """Members whose JSON document `name` has keys replaced."""

    def edit(members: Members) -> Members:
        document = json.loads(members[name])
        document.update(changes)
        spelt = json.dumps(document).encode() if name.startswith("tokenizer/") else None
        return {**members, name: spelt or canonical(document)}

    return edit


def replaced(name: str, data: bytes) -> Callable[[Members], Members]:
    return lambda members: {**members, name: data}


def adapter_config(**changes: Any) -> Callable[[Members], Members]:
    return edited("adapter/adapter_config.json", **changes)


def evals(change: Callable[[dict[str, Any]], None]) -> Callable[[Members], Members]:
    def edit(members: Members) -> Members:
        document = json.loads(members["evals.json"])
        change(document)
        return {**members, "evals.json": canonical(document)}

    return edit


def links(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Members], Members]:
    """Members whose receipt is changed and whose manifest names the changed head."""

    def edit(members: Members) -> Members:
        receipt = json.loads(members["receipt.json"])
        change(receipt["links"])
        manifest = json.loads(members["manifest.json"])
        if receipt["links"]:
            manifest["receipt_head"] = receipt_head(receipt["links"])
        return {
            **members,
            "receipt.json": canonical(receipt),
            "manifest.json": canonical(manifest),
        }

    return edit


def first_row(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["rows"][0].update(changes)


TOKENIZER_CONFIG = "tokenizer/tokenizer_config.json"
CONTENT: dict[str, tuple[Callable[[Members], Members], str]] = {
    "manifest-unknown-key": (edited("manifest.json", code="x"), "the key code is not allowed"),
    "manifest-other-format": (edited("manifest.json", format="kolm-9"), "manifest.json: format"),
    "manifest-base-path": (
        edited("manifest.json", base={"name": "/tmp/base", "digest": "ab" * 32}),
        "manifest.json: base.name",
    ),
    "receipt-changed-link": (
        links(lambda chain: chain[0]["facts"].update(train=1)),
        "breaks at link verifier: prev does not match",
    ),
    "receipt-dropped-link": (links(lambda chain: chain.pop(2)), "does not hold the links"),
    "receipt-swapped-links": (
        links(lambda chain: chain.insert(1, chain.pop(2))),
        "does not hold the links",
    ),
    "receipt-no-links": (links(lambda chain: chain.clear()), "does not hold the links"),
    "receipt-malformed-link": (links(lambda chain: chain[0].pop("mac")), "does not hold links of"),
    "receipt-wrong-mac": (
        links(lambda chain: chain[5].update(mac="00" * 32)),
        "breaks at link build: its mac does not match",
    ),
    "receipt-no-mac": (
        links(lambda chain: chain[5].update(mac=None)),
        "link build: its mac is missing",
    ),
    "receipt-other-head": (
        edited("manifest.json", receipt_head="00" * 32),
        "names another receipt",
    ),
    "receipt-no-receipt": (replaced("receipt.json", b"[]"), "is not a receipt"),
    "adapter-other-base": (
        adapter_config(base_model_name_or_path="another"),
        "names another base than the manifest",
    ),
    "adapter-base-path": (
        adapter_config(base_model_name_or_path="../../base"),
        "base_model_name_or_path",
    ),
    "adapter-auto-map": (adapter_config(auto_map={"a": "b.c"}), "the key auto_map is not allowed"),
    "adapter-custom-code": (
        adapter_config(auto_mapping={"parent_library": "evil"}),
        "the key auto_mapping is not allowed",
    ),
    "adapter-no-lora": (adapter_config(peft_type="PROMPT_TUNING"), "peft_type"),
    "adapter-absurd-rank": (adapter_config(r=100_000), "adapter_config.json: r:"),
    "adapter-initialiser": (adapter_config(init_lora_weights="pissa"), "init_lora_weights"),
    "adapter-pattern-as-module": (
        adapter_config(target_modules=[".*(a+)+$"]),
        "module names are identifiers",
    ),
    "adapter-modules-to-save": (
        adapter_config(modules_to_save=["lm_head"]),
        "the key modules_to_save is not allowed",
    ),
    "adapter-not-canonical": (
        replaced("adapter/adapter_config.json", peft_config()),
        "not in canonical form",
    ),
    "weights-cut-header": (replaced(WEIGHTS, b"\x01\x02"), "cut off before its header"),
    "weights-huge-header": (
        replaced(WEIGHTS, struct.pack("<Q", 1 << 62)),
        "claims 4611686018427387904 bytes, more than allowed",
    ),
    "tokenizer-auto-map": (
        edited(TOKENIZER_CONFIG, auto_map={"AutoTokenizer": "x.Y"}),
        "the key auto_map is not allowed",
    ),
    "tokenizer-custom-class": (
        edited(TOKENIZER_CONFIG, tokenizer_class="MyTokenizer"),
        "tokenizer_class",
    ),
    "tokenizer-path": (
        edited(TOKENIZER_CONFIG, vocab_file="/etc/passwd"),
        "the key vocab_file is not allowed",
    ),
    "tokenizer-unknown-part": (
        edited("tokenizer/tokenizer.json", plugin={}),
        "the key plugin is not allowed",
    ),
    "tokenizer-unknown-component": (
        edited("tokenizer/tokenizer.json", normalizer={"type": "Python"}),
        "normalizer is of a type that is not allowed",
    ),
    "tokenizer-nested-component": (
        edited(
            "tokenizer/tokenizer.json",
            pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Custom"}]},
        ),
        "pre_tokenizer is of a type that is not allowed",
    ),
    "tokenizer-no-model": (edited("tokenizer/tokenizer.json", model=None), "holds no model"),
    "template-syntax": (
        replaced("tokenizer/chat_template.jinja", b"{% for %}"),
        "does not compile",
    ),
    "special-tokens-unknown": (
        replaced("tokenizer/special_tokens_map.json", b'{"x":"y"}'),
        "the key x is not allowed",
    ),
    "bom-other": (replaced("bom.cdx.json", b"{}"), "not a CycloneDX document"),
    "card-no-text": (replaced("MODEL_CARD.md", b"\xff\xfe"), "is not UTF-8 text"),
    "evals-no-document": (replaced("evals.json", b"{}"), "is not a kolm-evals-1 document"),
    "evals-row-twice": (
        evals(lambda document: document["rows"].append(document["rows"][0])),
        "a row is counted twice",
    ),
    "evals-readable-row": (
        evals(first_row(row_hash="my card is lost")),
        "not named by a keyed hash",
    ),
    "evals-text-no-mapping": (evals(first_row(text="lost")), "a row's text is not messages and"),
    "evals-text-without-answer": (
        evals(first_row(text={"input": []})),
        "a row's text is not messages and",
    ),
    "evals-text-more-than-text": (
        evals(first_row(text={"input": [], "output": "", "code": "x"})),
        "a row's text is not messages and",
    ),
    "evals-text-no-messages": (
        evals(first_row(text={"input": [{"role": "user"}], "output": ""})),
        "a row's text is not messages and",
    ),
    "evals-text-other-content": (
        evals(first_row(text={"input": [{"role": "user", "content": [1]}], "output": ""})),
        "a row's text is not messages and",
    ),
    "evals-better-k": (
        evals(lambda document: document["score"].update(k=0.99)),
        "k is claimed as 0.99, its rows give",
    ),
    "evals-better-fidelity": (
        evals(lambda document: document["score"].update(fidelity=1.0)),
        "fidelity is claimed as 1, its rows give 0.9",
    ),
    "evals-k-as-text": (
        evals(lambda document: document["score"].update(k="0.9")),
        "k is claimed as absent",
    ),
    "evals-better-row": (evals(first_row(score=1.0)), "is claimed as"),
    "evals-impossible-score": (evals(first_row(score=7.0)), "a row holds an impossible score"),
    "evals-endless-bootstrap": (
        evals(lambda document: document["inputs"].update(bootstrap=10**9)),
        "bootstrap",
    ),
    "evals-row-with-more": (evals(first_row(note="x")), "not what K is computed from"),
    "evals-smaller-size": (
        evals(lambda document: document["inputs"].update(size_bytes=1)),
        "claims a size of 1 bytes",
    ),
    "other-evals-than-receipt": (
        lambda m: {
            **m,
            "evals.json": m["evals.json"].replace(b'"confidence":0.5,', b'"confidence":0.6,', 1),
        },
        "link score tells of another evals_sha256",
    ),
}


@pytest.mark.parametrize("defect", CONTENT)
def test_content_at_fault_is_refused_though_the_trusted_key_signed_it(
    defect: str, artifact: bytes, signer: Signer, tmp_path: Path
) -> None:
    spoil, message = CONTENT[defect]
    file = tmp_path / f"{defect}.kolm"
    file.write_bytes(resigned(spoil(read_archive(artifact)), signer))
    with pytest.raises(ArtifactError, match=message):
        verify_kolm(file, public_key=signer.public_key, secret=SECRET)


def test_a_manifest_that_is_spelt_differently_is_refused(artifact: bytes, signer: Signer) -> None:
    members = read_archive(artifact)
    members["manifest.json"] = json.dumps(json.loads(members["manifest.json"])).encode()
    with pytest.raises(ArtifactError, match=r"manifest\.json is not in canonical form"):
        verify_kolm(write_archive(members), public_key=signer.public_key)


def test_a_manifest_that_lists_other_members_is_refused(artifact: bytes, signer: Signer) -> None:
    members = read_archive(artifact)
    manifest = json.loads(members["manifest.json"])
    card = manifest["members"].pop("MODEL_CARD.md")
    members["manifest.json"] = canonical(manifest)
    with pytest.raises(ArtifactError, match=r"MODEL_CARD\.md is not in the manifest"):
        verify_kolm(write_archive(members), public_key=signer.public_key)
    manifest["members"] |= {"MODEL_CARD.md": card, "tokenizer/added.json": card}
    members["manifest.json"] = canonical(manifest)
    with pytest.raises(ArtifactError, match=r"'tokenizer/added\.json' is in the manifest only"):
        verify_kolm(write_archive(members), public_key=signer.public_key)


def test_the_member_list_is_closed() -> None:
    """No member's name ends in anything that can be executed or unpickled."""
    endings = {Path(name).suffix for name in MEMBERS}
    assert endings == {".json", ".md", ".safetensors", ".jinja", ".sig"}
    assert archive_module.REQUIRED


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_changed_byte_anywhere_goes_unnoticed(data: st.DataObject) -> None:
    """A container is accepted only in its one spelling: any flipped bit is refused."""
    members = {name: name.encode() for name in archive_module.REQUIRED}
    whole = write_archive(members)
    assert read_archive(whole) == members
    position = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    broken = bytearray(whole)
    broken[position] ^= 1 << bit
    with pytest.raises(ArtifactError):
        read_archive(bytes(broken))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_bring_the_reader_down(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        read_archive(data)
