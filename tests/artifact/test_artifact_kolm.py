"""Packing, verifying, unpacking, comparing: the whole `.kolm`, and the stock verifier on it."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from apprentice_pipeline.artifact.archive import read_archive
from apprentice_pipeline.artifact.kolm import (
    KolmContents,
    Signer,
    diff,
    inspect,
    load_or_create_signer,
    pack,
    report,
    unpack,
    verify_kolm,
    write_kolm,
)
from apprentice_pipeline.errors import ArtifactError
from tests.artifact.artifact_parts import SECRET, make_contents


def test_a_packed_artifact_verifies_and_says_what_it_is(artifact: bytes, signer: Signer) -> None:
    verified = verify_kolm(artifact, public_key=signer.public_key, secret=SECRET)
    facts = report(verified)
    assert verified.mac_checked
    assert (facts["tenant"], facts["namespace"]) == ("default", "prod-tickets")
    assert facts["k_score"] == verified.k_recomputed == verified.evals["score"]["k"]
    assert verified.manifest.base_digest == "ab" * 32
    assert verified.manifest.facts["evaluator"] == "structured_match"
    assert facts["signed_by"] == signer.fingerprint
    json.dumps(facts)


def test_without_the_secret_the_report_says_that_the_mac_was_not_checked(
    artifact: bytes, signer: Signer
) -> None:
    verified = verify_kolm(artifact, public_key=signer.public_key)
    assert not verified.mac_checked
    assert report(verified)["mac"] == "MAC not checked"


def test_an_artifact_from_before_there_was_a_secret_still_verifies_and_says_so(
    contents: KolmContents, signer: Signer
) -> None:
    older = pack(contents, signer, secret=None)
    verified = verify_kolm(older, public_key=signer.public_key, secret=SECRET)
    assert not verified.mac_checked
    assert report(verified)["mac"] == "MAC not checked: the receipt carries none"


def test_the_same_contents_give_the_same_bytes_but_for_the_signature(
    contents: KolmContents, signer: Signer, artifact: bytes
) -> None:
    again = pack(make_contents(), signer, secret=SECRET)
    left, right = read_archive(artifact), read_archive(again)
    assert left.pop("model.sig") != right.pop("model.sig")
    assert left == right


def test_the_zip_is_stored_sorted_and_carries_no_times(artifact: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert names == [
        "MODEL_CARD.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "bom.cdx.json",
        "evals.json",
        "manifest.json",
        "model.sig",
        "receipt.json",
        "tokenizer/chat_template.jinja",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]


def test_no_path_of_the_building_machine_reaches_the_artifact(artifact: bytes) -> None:
    assert b"/somewhere/on/a/machine" not in artifact
    assert os.getcwd().encode() not in artifact


def test_the_stock_model_signing_command_verifies_an_unpacked_artifact(
    artifact: bytes, signer: Signer, tmp_path: Path
) -> None:
    """A tool that is not ours agrees, and objects once a byte of the adapter is changed."""
    folder, key = tmp_path / "unpacked", tmp_path / "key.pub"
    unpack(verify_kolm(artifact, public_key=signer.public_key), folder)
    key.write_bytes(signer.public_key)
    command = [str(Path(sys.executable).with_name("model_signing")), "verify", "key", str(folder)]
    command += ["--signature", str(folder / "model.sig"), "--public_key", str(key)]
    accepted = subprocess.run(command, capture_output=True, text=True)
    assert accepted.returncode == 0, accepted.stderr
    with (folder / "adapter" / "adapter_model.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x7f")
    assert subprocess.run(command, capture_output=True, text=True).returncode != 0
    assert "Hash mismatch" in subprocess.run(command, capture_output=True, text=True).stderr


def test_an_artifact_that_the_stock_command_signed_verifies_here(
    artifact: bytes, signer: Signer, tmp_path: Path
) -> None:
    from apprentice_pipeline.artifact.archive import write_archive

    folder = tmp_path / "unpacked"
    unpack(verify_kolm(artifact, public_key=signer.public_key), folder)
    (folder / "model.sig").unlink()
    command = [str(Path(sys.executable).with_name("model_signing")), "sign", "key", str(folder)]
    command += ["--signature", str(folder / "model.sig"), "--private_key", str(signer.private_key)]
    subprocess.run(command, capture_output=True, check=True)
    members = {**read_archive(artifact), "model.sig": (folder / "model.sig").read_bytes()}
    assert verify_kolm(write_archive(members), public_key=signer.public_key).k_recomputed > 0


def test_another_key_is_not_trusted(artifact: bytes, tmp_path: Path) -> None:
    stranger = load_or_create_signer(tmp_path)
    with pytest.raises(ArtifactError, match="signed with another key than the one that is trusted"):
        verify_kolm(artifact, public_key=stranger.public_key)


def test_inspection_says_that_nothing_was_proven(artifact_file: Path) -> None:
    facts = inspect(artifact_file)
    assert facts["verified"] is False
    assert "not checked" in facts["signature"]
    assert facts["rows"] == 120
    assert facts["receipt"][0]["link"] == "corpus"
    assert facts["model_card"].startswith("---")


def test_a_comparison_names_what_changed_and_nothing_else(
    contents: KolmContents, signer: Signer, artifact: bytes
) -> None:
    links = {**contents.links, "corpus": {"merkle_root": "cd" * 32, "train": 900}}
    later = pack(replace(contents, links=links), signer, secret=SECRET)
    changes = diff(artifact, later)
    assert changes["receipt"] == {"corpus": {"train": [800, 900]}}
    assert changes["members"] == ["receipt.json"]
    assert changes["manifest"] == {}
    assert diff(artifact, artifact) == {"receipt": {}, "members": [], "manifest": {}}


def test_unpacking_writes_private_files_into_an_empty_folder_only(
    artifact: bytes, signer: Signer, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    verified = verify_kolm(artifact, public_key=signer.public_key)
    unpack(verified, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    assert files == sorted(verified.members)
    with pytest.raises(ArtifactError, match="not empty"):
        unpack(verified, folder)


def test_writing_is_whole_or_not_at_all(artifact: bytes, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.kolm"
    digest = write_kolm(file, artifact)
    assert file.read_bytes() == artifact
    assert len(digest) == 64
    assert list(file.parent.iterdir()) == [file]
    (tmp_path / "blocked").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_kolm(tmp_path / "blocked" / "a.kolm", artifact)


def test_a_typical_artifact_verifies_in_well_under_a_second(signer: Signer) -> None:
    """8 MB and 1,000 rows, processor time so that a busy machine does not matter."""
    data = pack(make_contents(rows=1000, layers=32, width=4096, rank=8), signer)
    assert 8_000_000 < len(data) < 10_000_000
    started = time.process_time()
    verify_kolm(data, public_key=signer.public_key)
    assert time.process_time() - started < 0.8


def test_a_card_cannot_be_given_markup_or_sections_by_its_facts(
    contents: KolmContents, signer: Signer
) -> None:
    description = "# Fake\n\n<script>x</script> [a](b)"
    card = replace(contents.card, description=description, limits=("one\ntwo",))
    members = read_archive(pack(replace(contents, card=card), signer))
    text = members["MODEL_CARD.md"].decode()
    assert "\\# Fake \\<script\\>" in text
    assert "- one two\n" in text
    assert "replicates 90 % of the teacher's behaviour on 120 held-out requests" in text
    assert "licence: Apache-2.0" in text
    assert "attribution: Apprentice Pipeline authors" in text
    assert "claude-sonnet-4-5-20250929" in text


def test_packing_refuses_what_reading_would_refuse(contents: KolmContents, signer: Signer) -> None:
    links = {name: facts for name, facts in contents.links.items() if name != "build"}
    with pytest.raises(ArtifactError, match="receipt links missing or unknown: build"):
        pack(replace(contents, links=links), signer)
    with pytest.raises(ArtifactError, match="lack the adapter"):
        pack(replace(contents, adapter={}), signer)
    with pytest.raises(ArtifactError, match=r"'tokenizer/vocab\.txt' is unknown"):
        pack(
            replace(contents, tokenizer={**contents.tokenizer, "tokenizer/vocab.txt": b""}), signer
        )
    with pytest.raises(ArtifactError, match="canonical JSON"):
        pack(replace(contents, facts={"chance": float("nan")}), signer)
    with pytest.raises(ArtifactError, match="tenant"):
        pack(replace(contents, tenant="../x"), signer)


def test_the_package_imports_without_its_heavy_libraries() -> None:
    code = (
        "import sys, apprentice_pipeline.artifact.kolm; heavy = {'model_signing', 'sigstore',"
        " 'jinja2', 'numpy', 'torch', 'mlflow'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
def test_a_byte_changed_anywhere_is_refused_with_a_remedy(
    artifact: bytes, signer: Signer, share: float
) -> None:
    changed = bytearray(artifact)
    changed[int(share * (len(changed) - 1))] ^= 1
    with pytest.raises(ArtifactError) as raised:
        verify_kolm(bytes(changed), public_key=signer.public_key)
    assert raised.value.remedy
