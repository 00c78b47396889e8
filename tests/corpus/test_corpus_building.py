"""Selection: duplicates, coherence, trust; slices and weights; building again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.corpus import build_corpus, rebuild_corpus, weight_of, weights
from apprentice_pipeline.corpus.rows import Corpus
from apprentice_pipeline.corpus.slices import cluster_names, label_field
from apprentice_pipeline.errors import Incoherent
from apprentice_pipeline.records import Pair

MakePair = Callable[..., Pair]


def corpus_of(pairs: list[Pair], **more: Any) -> Corpus:
    values: dict[str, Any] = {
        "tenant": "acme",
        "namespace": "tickets",
        "holdout_fraction": 0.3,
        "split_key": b"s" * 32,
        "row_key": b"r" * 32,
        "created_us": 1,
        "min_train": 0,
        "min_holdout": 0,
    }
    return build_corpus(pairs, **{**values, **more})


def rows_of(corpus: Corpus) -> list[Any]:
    return [*corpus.train, *corpus.holdout]


def test_of_equal_inputs_the_newest_is_kept(make_pair: MakePair) -> None:
    corpus = corpus_of([make_pair("hello", "hi", n) for n in range(3)])
    assert [row.pair_id for row in rows_of(corpus)] == ["pair-00002"]
    assert corpus.report.duplicates == 2


def test_an_approved_answer_speaks_for_its_input(make_pair: MakePair) -> None:
    pairs = [
        make_pair("hello", "hi", 1, verdict="approved"),
        make_pair("hello", "go away", 2),
        make_pair("hello", "what?", 3, verdict="quarantined"),
    ]
    [row] = rows_of(corpus_of(pairs))
    assert (row.completion, row.verdict) == ("hi", "approved")


def test_a_verified_answer_comes_before_a_newer_unverified_one(make_pair: MakePair) -> None:
    pairs = [make_pair("hello", "hi", 1), make_pair("hello", "no", 2, verdict="quarantined")]
    [row] = rows_of(corpus_of(pairs))
    assert row.pair_id == "pair-00001"


def test_contradicting_answers_leave_their_input_out(make_pair: MakePair) -> None:
    steady = [make_pair(f"request {n}", '{"a": 1}', n) for n in range(30)]
    torn = [make_pair("what?", f'{{"a": {n}}}', 100 + n) for n in range(2)]
    corpus = corpus_of([*steady, *torn])
    assert (corpus.report.disagreeing_inputs, corpus.report.disagreeing) == (1, 2)
    assert corpus.report.train + corpus.report.holdout == 30


def test_a_large_majority_speaks_for_its_input(make_pair: MakePair) -> None:
    pairs = [make_pair("hi", '{"a": 1}', n) for n in range(9)] + [make_pair("hi", '{"a": 2}', 9)]
    [row] = rows_of(corpus_of(pairs))
    assert row.completion == '{"a": 1}'


def test_answers_that_differ_in_wording_only_do_not_contradict(make_pair: MakePair) -> None:
    pairs = [
        make_pair("where is it?", "Your parcel arrives on Monday.", 1),
        make_pair("where is it?", "Your parcel arrives on Monday!", 2),
    ]
    assert corpus_of(pairs).report.disagreeing_inputs == 0


def test_a_stream_that_contradicts_itself_too_often_is_refused(make_pair: MakePair) -> None:
    pairs = [make_pair(f"request {n % 10}", f'{{"a": {n}}}', n) for n in range(20)]
    with pytest.raises(Incoherent, match=r"10 of 10 inputs \(100%\)") as refused:
        corpus_of(pairs)
    assert "max_disagreeing_inputs" in refused.value.remedy


def test_only_trusted_answers_are_learnt_but_all_may_be_held_out(make_pair: MakePair) -> None:
    verdicts = ["verified", "quarantined", "unverified", "approved", "rejected"]
    pairs = [make_pair(f"request {n}", number=n, verdict=verdicts[n % 5]) for n in range(300)]
    corpus = corpus_of(pairs)
    assert {row.verdict for row in corpus.train} == {"verified", "approved"}
    assert {row.verdict for row in corpus.holdout} == set(verdicts) - {"rejected"}
    report = corpus.report
    assert report.rejected == 60
    assert report.given == report.train + report.holdout + report.untrusted + report.rejected
    assert report.holdout_verified == sum(row.verified for row in corpus.holdout)


def test_what_is_not_text_is_counted_and_left_out(make_pair: MakePair) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    pairs = [
        make_pair("a", {"content": [], "tool_calls": [{"id": "1"}]}, 1),
        make_pair("b", number=2, input={"messages": image, "parameters": {}}),
        make_pair("c", " ", 3),
        make_pair("d", number=4),
    ]
    report = corpus_of(pairs).report
    assert (report.unsupported, report.train + report.holdout) == (3, 1)


def test_row_hashes_are_keyed_and_follow_the_content(make_pair: MakePair) -> None:
    [row] = rows_of(corpus_of([make_pair("hello", "hi")]))
    [other_key] = rows_of(corpus_of([make_pair("hello", "hi")], row_key=b"x" * 32))
    [other_text] = rows_of(corpus_of([make_pair("hello", "ho")]))
    assert len({row.row_hash, other_key.row_hash, other_text.row_hash}) == 3


def labelled(make_pair: MakePair, n: int = 600) -> list[Pair]:
    labels = ["refund", "card", "loan"]
    return [
        make_pair(f"request {k}", f'{{"intent": "{labels[k % 3]}", "note": "n{k}"}}', k)
        for k in range(n)
    ]


def test_slices_follow_the_label_and_do_not_show_it(make_pair: MakePair) -> None:
    corpus = corpus_of(labelled(make_pair))
    slices = {row.slice for row in corpus.holdout}
    assert len(slices) == 3
    assert all(name.startswith("label-") and "refund" not in name for name in slices)
    by_label = {(row.slice, row.completion.split('"')[3]) for row in corpus.holdout}
    assert len(by_label) == 3


def test_small_labels_are_pooled_into_no_slice(make_pair: MakePair) -> None:
    rare = [make_pair(f"rare {k}", '{"intent": "rare", "note": ""}', 900 + k) for k in range(6)]
    corpus = corpus_of([*labelled(make_pair), *rare])
    assert {row.slice for row in corpus.holdout if "rare" in row.completion} <= {""}


def test_labels_too_rare_to_cover_half_of_the_holdout_give_way_to_clusters(
    make_pair: MakePair,
) -> None:
    pairs = [make_pair(f"request {k} abc", f'{{"intent": "i{k % 40}"}}', k) for k in range(400)]
    pairs += [make_pair(f"frequent {k}", '{"intent": "frequent"}', 500 + k) for k in range(90)]
    names = {row.slice for row in corpus_of(pairs).holdout}
    assert all(name.startswith("cluster-") for name in names - {""})
    assert names - {""}


def test_without_labels_slices_are_clusters_of_inputs(make_pair: MakePair) -> None:
    about = ["where is my parcel", "reset my password please", "cancel the subscription now"]
    pairs = [make_pair(f"{about[n % 3]} {n}", f"answer {n}", n) for n in range(600)]
    corpus = corpus_of(pairs)
    names = {row.slice for row in corpus.holdout}
    assert len(names - {""}) >= 2
    assert all(name.startswith("cluster-") for name in names - {""})
    assert corpus.holdout == corpus_of(pairs).holdout


def test_clusters_find_the_groups_that_are_there() -> None:
    texts = ["aaaa bbbb cccc", "xxxx yyyy zzzz"] * 50
    names = cluster_names(texts, seed=1)
    assert len(set(names[0::2]) & set(names[1::2])) == 0


def test_too_few_rows_have_no_clusters() -> None:
    assert cluster_names(["a"] * 30, seed=1) == [""] * 30
    assert cluster_names([], seed=1) == []


def test_the_label_is_the_field_that_tells_most() -> None:
    values = [{"ok": n % 10 > 0, "intent": f"i{n % 5}", "id": f"x{n}"} for n in range(100)]
    assert label_field(values) == "intent"
    assert label_field(["text"] * 100) is None
    assert label_field([{"only": 1}] * 100) is None


def test_weights_are_capped_inverse_probabilities(make_pair: MakePair) -> None:
    probabilities = [1.0, 0.5, 0.02, 0.0]
    pairs = [
        make_pair(f"r{n}", number=n, inclusion_probability=p) for n, p in enumerate(probabilities)
    ]
    rows = sorted(rows_of(corpus_of(pairs)), key=lambda row: row.pair_id)
    assert [weight_of(row) for row in rows] == [1.0, 2.0, 10.0, 10.0]
    assert sum(weights(rows)) == pytest.approx(len(rows))
    assert weights([]) == []


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_does_not_matter(make_pair: MakePair, dice: random.Random) -> None:
    pairs = [make_pair(f"request {n % 30}", "same", n) for n in range(60)]
    shuffled = list(pairs)
    dice.shuffle(shuffled)
    assert corpus_of(shuffled) == corpus_of(pairs)


def test_a_corpus_is_built_again_from_its_manifest(make_pair: MakePair) -> None:
    pairs = labelled(make_pair)
    corpus = corpus_of(pairs)
    rebuilt = rebuild_corpus(corpus.manifest, reversed(pairs), row_key=b"r" * 32)
    assert (rebuilt.corpus.train, rebuilt.corpus.holdout) == (corpus.train, corpus.holdout)
    assert (rebuilt.erased, rebuilt.changed) == ((), ())


def test_erased_and_edited_pairs_are_named_and_the_rest_still_proved(make_pair: MakePair) -> None:
    pairs = labelled(make_pair, 60)
    corpus = corpus_of(pairs)
    left = [replace(pairs[1], output="edited"), *pairs[2:]]
    rebuilt = rebuild_corpus(corpus.manifest, left, row_key=b"r" * 32)
    assert (rebuilt.erased, rebuilt.changed) == (("pair-00000",), ("pair-00001",))
    assert len(rows_of(rebuilt.corpus)) == 58
    assert all(rebuilt.corpus.manifest.proof(r.pair_id).holds() for r in rows_of(rebuilt.corpus))


def test_a_later_verdict_does_not_change_a_frozen_corpus(make_pair: MakePair) -> None:
    pairs = labelled(make_pair, 60)
    corpus = corpus_of(pairs)
    later = [replace(pair, verdict="rejected") for pair in pairs]
    rebuilt = rebuild_corpus(corpus.manifest, later, row_key=b"r" * 32)
    assert rebuilt.corpus.train == corpus.train


def test_nothing_of_the_content_is_in_the_manifest(make_pair: MakePair) -> None:
    corpus = corpus_of([make_pair("canary-in", "canary-out", 9_999), *labelled(make_pair)])
    text = corpus.manifest.to_json()
    assert b"canary" not in text
    assert b"refund" not in text
