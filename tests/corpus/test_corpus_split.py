"""The split: stable under growth, blind to typography, never leaking."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.corpus import build_corpus, check_leakage
from apprentice_pipeline.corpus.building import shared_inputs
from apprentice_pipeline.corpus.rows import Corpus
from apprentice_pipeline.corpus.split import fold, side_of, split_input
from apprentice_pipeline.errors import Leakage, TooFewPairs
from apprentice_pipeline.records import Pair

MakePair = Callable[..., Pair]
TEXT = st.text(min_size=1, max_size=30)
KEYS: dict[str, Any] = {"split_key": b"s" * 32, "row_key": b"r" * 32}


def conversation(text: str, system: str = "") -> list[dict[str, Any]]:
    prompt = [{"role": "system", "content": system}] if system else []
    return [*prompt, {"role": "user", "content": text}]


def corpus_of(pairs: list[Pair], fraction: float = 0.4) -> Corpus:
    return build_corpus(
        pairs,
        tenant="acme",
        namespace="tickets",
        holdout_fraction=fraction,
        created_us=1,
        max_disagreeing_inputs=1.0,
        min_train=0,
        min_holdout=0,
        **KEYS,
    )


@pytest.mark.parametrize(
    "variant",
    [
        "WHERE IS MY CARD?",
        "  where is\tmy card ",
        "where is my card...!!",
        "Where, is my card",
        "where is my c\u00adard",
        "ｗｈｅｒｅ is my card?",
        "“Where is my card?”",
        "where\u200bis my\u00a0card",
        "where-is-my-card",
    ],
)
def test_variants_of_one_input_fold_alike(variant: str) -> None:
    assert fold(variant) == fold("Where is my card?")


@pytest.mark.parametrize("other", ["where is my cart", "where is my card 2", "¿dónde?"])
def test_other_inputs_do_not(other: str) -> None:
    assert fold(other) != fold("Where is my card?")


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text())
def test_unicode_forms_fold_alike(text: str) -> None:
    forms = {fold(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1


@given(TEXT, st.text(max_size=20))
def test_the_system_prompt_does_not_move_an_input(text: str, system: str) -> None:
    assert split_input(conversation(text, system)) == split_input(conversation(text))


def test_text_moved_between_turns_is_another_input() -> None:
    one = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    two = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}]
    assert split_input(one) != split_input(two)


@given(TEXT, st.floats(0.01, 0.98))
def test_a_larger_fraction_only_adds_to_the_holdout(text: str, fraction: float) -> None:
    if side_of(conversation(text), b"key", fraction) == "holdout":
        assert side_of(conversation(text), b"key", min(1.0, fraction + 0.01)) == "holdout"


def test_the_holdout_has_about_its_fraction_and_another_key_another_holdout() -> None:
    texts = [f"request number {n}" for n in range(4_000)]
    one = {t for t in texts if side_of(conversation(t), b"one", 0.15) == "holdout"}
    two = {t for t in texts if side_of(conversation(t), b"two", 0.15) == "holdout"}
    assert 0.13 * 4_000 < len(one) < 0.17 * 4_000
    assert len(one & two) < len(one) / 3


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=30), st.integers(0, 30))
def test_no_row_changes_sides_as_the_corpus_grows(
    make_pair: MakePair, texts: list[str], first: int
) -> None:
    pairs = [make_pair(text, number=number) for number, text in enumerate(texts)]
    before, after = corpus_of(pairs[:first]), corpus_of(pairs)
    for side in ("train", "holdout"):
        was = {split_input(row.messages) for row in getattr(before, side)}
        now = {split_input(row.messages) for row in getattr(after, side)}
        assert was <= now


def respelled(text: str, how: int) -> str:
    """The text in another case, spacing, punctuation or Unicode form."""
    return [text, text.upper(), f"  {text}!?", unicodedata.normalize("NFKD", text), f"«{text}»"][
        how
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, st.integers(0, 4)), min_size=1, max_size=30))
def test_nothing_leaks_however_inputs_are_respelled(
    make_pair: MakePair, texts: list[tuple[str, int]]
) -> None:
    pairs = [make_pair(respelled(t, how), number=n) for n, (t, how) in enumerate(texts)]
    check_leakage(corpus_of(pairs))


def test_a_corpus_that_leaks_is_refused_with_the_counts(make_pair: MakePair) -> None:
    corpus = corpus_of([make_pair(f"request {n}", number=n) for n in range(50)])
    leaking = Corpus(
        (*corpus.train, corpus.holdout[0]), corpus.holdout, corpus.manifest, corpus.report
    )
    with pytest.raises(Leakage, match="share 1 inputs, 1 rows and 1 pairs") as refused:
        check_leakage(leaking)
    assert refused.value.remedy


def test_too_few_pairs_are_refused_with_the_counts(make_pair: MakePair) -> None:
    pairs = [make_pair(f"request {n}", number=n) for n in range(20)]
    with pytest.raises(TooFewPairs, match=r"of 1000 train pairs and .* of 100 verified holdout"):
        build_corpus(
            pairs,
            tenant="acme",
            namespace="tickets",
            holdout_fraction=0.2,
            created_us=1,
            min_train=1_000,
            min_holdout=100,
            **KEYS,
        )


def test_a_frozen_manifest_tells_of_inputs_on_both_sides(make_pair: MakePair) -> None:
    """Counted from what was frozen: a row that was put on the other side is found."""
    pairs = [make_pair(f"question {n}", "answer", n) for n in range(40)]
    keys = {pair.pair_id: pair.dedup_key for pair in pairs}
    manifest = corpus_of(pairs).manifest
    assert shared_inputs(manifest, keys) == 0
    train, holdout = manifest.train[0], manifest.holdout[0]
    assert shared_inputs(manifest, {**keys, train.pair_id: keys[holdout.pair_id]}) == 1
    assert shared_inputs(manifest, {}) == 0
