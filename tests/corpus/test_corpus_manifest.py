"""Manifests and their Merkle trees: canonical, strict, provable row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.corpus import Manifest, build_corpus, merkle, merkle_root
from apprentice_pipeline.errors import CorpusError
from apprentice_pipeline.records import Pair

LEAVES = st.lists(st.binary(max_size=8), max_size=40)


@pytest.fixture(scope="module")
def manifest(make_pair: Callable[..., Pair]) -> Manifest:
    pairs = [make_pair(f"request {n}", number=n) for n in range(37)]
    return build_corpus(
        pairs,
        tenant="acme",
        namespace="tickets",
        holdout_fraction=0.3,
        split_key=b"s" * 32,
        row_key=b"r" * 32,
        created_us=123,
    ).manifest


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as the text says it: split at the largest power of two below n."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(
        b"\x01" + reference_root(leaves[:k]) + reference_root(leaves[k:])
    ).digest()


@given(LEAVES)
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert merkle.merkle_root(leaves) == reference_root(leaves)


def test_the_root_agrees_with_a_published_vector() -> None:
    """The test vectors of Google's certificate-transparency trees."""
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    leaves.append("606162636465666768696a6b6c6d6e6f")
    root = merkle.merkle_root([bytes.fromhex(leaf) for leaf in leaves])
    assert root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(LEAVES.filter(bool), st.data())
def test_every_leaf_has_a_proof_that_holds(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.inclusion_proof(leaves, index)
    root = merkle.merkle_root(leaves)
    assert merkle.check_inclusion(leaves[index], index, len(leaves), path, root)
    assert not merkle.check_inclusion(leaves[index] + b"x", index, len(leaves), path, root)
    assert not merkle.check_inclusion(leaves[index], index, len(leaves), (*path, root), root)
    if path:
        assert not merkle.check_inclusion(leaves[index], index, len(leaves), path[:-1], root)
    assert not merkle.check_inclusion(leaves[index], len(leaves), len(leaves), path, root)


@given(LEAVES.filter(bool))
def test_an_inner_node_is_no_leaf(leaves: list[bytes]) -> None:
    root = merkle.merkle_root(leaves)
    assert merkle.merkle_root([root]) != root


def test_there_is_no_proof_of_a_leaf_that_is_not_there() -> None:
    with pytest.raises(IndexError):
        merkle.inclusion_proof([b"a"], 1)


def test_a_manifest_survives_json_byte_for_byte(manifest: Manifest) -> None:
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_every_row_of_a_manifest_can_be_proved(manifest: Manifest) -> None:
    assert all(manifest.proof(pair_id).holds() for pair_id in manifest.pair_ids)
    with pytest.raises(CorpusError, match="is not part of this corpus"):
        manifest.proof("pair-99999")


def test_the_sides_are_told_apart(manifest: Manifest) -> None:
    assert len(manifest.train) + len(manifest.holdout) == 37
    assert merkle_root(manifest.rows) == manifest.merkle_root
    assert manifest.side_root("holdout") == merkle_root(manifest.holdout)
    assert manifest.side_root("holdout") != manifest.side_root("train")
    assert dict(manifest.verdicts) == {"verified": 37}


def changed(manifest: Manifest, change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = orjson.loads(manifest.to_json())
    change(document)
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda d: d.update(format="apprentice-corpus/9"), "not of format"),
        (lambda d: d.update(extra=1), "unknown or missing keys"),
        (lambda d: d.pop("config"), "unknown or missing keys"),
        (lambda d: d.update(created_us="1"), "wrong type"),
        (lambda d: d.update(created_us=True), "wrong type"),
        (lambda d: d["rows"][0].append("x"), "wrong type"),
        (lambda d: d["rows"][0].__setitem__(1, "ab"), "wrong type"),
        (lambda d: d["rows"][0].__setitem__(2, "both"), "wrong type"),
        (lambda d: d["rows"].append(d["rows"][0]), "names a pair twice"),
        (lambda d: d["rows"].pop(), "do not have its Merkle root"),
        (lambda d: d["rows"].reverse(), "do not have its Merkle root"),
        (lambda d: d["rows"][3].__setitem__(3, "approved"), "do not have its Merkle root"),
    ],
)
def test_a_changed_manifest_is_refused_by_its_defect(
    manifest: Manifest, change: Callable[[dict[str, Any]], Any], cause: str
) -> None:
    with pytest.raises(CorpusError, match=cause):
        Manifest.from_json(changed(manifest, change))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CorpusError, match="the manifest is not"):
        Manifest.from_json(data)


def test_a_manifest_that_is_not_canonical_is_refused(manifest: Manifest) -> None:
    with pytest.raises(CorpusError, match="not canonical"):
        Manifest.from_json(manifest.to_json() + b"\n")
