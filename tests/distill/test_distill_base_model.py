"""Finding a base, telling it from others, and saying what to do when it cannot be had."""

import shutil
from pathlib import Path

import pytest

from apprentice_pipeline.distill.base_model import (
    can_name_a_base,
    digest_folder,
    recommend_bases,
    resolve_base,
)
from apprentice_pipeline.errors import BaseModelMissing


def test_embedded_is_the_packaged_base() -> None:
    base = resolve_base("embedded")
    assert base.name == "embedded"
    assert base.license == "cc-by-sa-4.0"
    assert base.context_tokens >= 1024
    assert len(base.digest) == 64


def test_a_folder_is_named_by_its_last_part(tiny_base: Path) -> None:
    base = resolve_base(str(tiny_base))
    assert (base.name, base.path, base.license) == ("tiny-base", tiny_base, "unknown")
    assert base.context_tokens == 256


def test_a_name_is_looked_for_in_the_model_folder_before_anywhere_else(
    tiny_base: Path, tmp_path: Path
) -> None:
    for name in ("small", "owner/model", "llama3.1:8b"):
        shutil.copytree(tiny_base, tmp_path / "models" / name)
        base = resolve_base(name, tmp_path / "models")
        assert (base.name, base.path) == (name, tmp_path / "models" / name)
        assert base.digest == resolve_base(tiny_base).digest
        assert can_name_a_base(name, tmp_path / "models")


def test_a_name_never_leads_out_of_the_model_folder(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "outside")
    (tmp_path / "models").mkdir()
    with pytest.raises(BaseModelMissing):
        resolve_base("../outside", tmp_path / "models")


def test_the_digest_follows_contents_not_place_nor_notes(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_base, copy)
    (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    assert digest_folder(copy) == digest_folder(tiny_base)
    assert resolve_base(copy).license == "mit"
    with (copy / "tokenizer.json").open("a") as stream:
        stream.write("\n")
    assert digest_folder(copy) != digest_folder(tiny_base)


def test_pickled_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelMissing, match="no safetensors") as refused:
        resolve_base(folder)
    assert "safetensors" in refused.value.remedy


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMissing, match=r"no readable config\.json"):
        resolve_base(tmp_path)


def test_a_name_that_is_neither_folder_nor_id_is_refused() -> None:
    with pytest.raises(BaseModelMissing, match="neither a folder nor"):
        resolve_base("no such thing")


@pytest.mark.parametrize("path", ["./nodir", "../x", ".hidden/x", "/no/such", "~/no-such-base"])
def test_a_path_is_never_taken_for_an_id(path: str) -> None:
    with pytest.raises(BaseModelMissing, match="no such folder") as refused:
        resolve_base(path)
    assert path in refused.value.message
    assert "config.json" in refused.value.remedy
    with pytest.raises(BaseModelMissing, match="no such folder"):
        resolve_base(Path("owner/model-nobody-has"))


@pytest.mark.parametrize("name", ["a--b/c", "-a/b", "a/b.git", "a..b/c", f"o/{'m' * 100}"])
def test_what_looks_like_an_id_and_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(BaseModelMissing, match="is neither a folder") as refused:
        resolve_base(name)
    assert name in refused.value.message
    assert "owner/model" in refused.value.remedy


def test_an_id_that_is_not_cached_is_refused_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseModelMissing, match="not in the local cache") as refused:
        resolve_base("nobody-here/no-such-model")
    assert "give its folder" in refused.value.remedy


def test_recommendations_fit_the_memory_largest_first() -> None:
    gigabyte = 2**30
    assert [r.name for r in recommend_bases(2 * gigabyte)] == ["embedded"]
    large = recommend_bases(64 * gigabyte)
    assert [r.memory_bytes for r in large] == sorted((r.memory_bytes for r in large), reverse=True)
    assert len(large) > 3
    assert recommend_bases(0) == []
