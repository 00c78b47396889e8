"""Erasure: rows gone everywhere, the models that learnt from them marked, the rest still proven."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from apprentice_pipeline.errors import KeyMissing, RegistryError, StoreError
from apprentice_pipeline.stages import erasure, holdout, promotion, report, results
from apprentice_pipeline.store.arrivals import Arrivals, set_log_aside
from apprentice_pipeline.store.pairs import pairs
from apprentice_pipeline.store.sealing import PlainRow
from apprentice_pipeline.store.spool_file import LOG_SUFFIX, set_aside
from apprentice_pipeline.store.spool_frames import NumberedRow
from apprentice_pipeline.store.unread import UNREAD

pytestmark = pytest.mark.timeout(1_200)
STREAM = ("default", "tickets")


def corpus_ids(workspace: Any) -> tuple[str, ...]:
    frozen = results.load(workspace, *STREAM, results.FrozenCorpus)
    return holdout.reload(workspace, *STREAM, frozen).corpus.manifest.pair_ids


def test_erasing_a_pair_marks_the_version_trained_on_it_and_the_rest_still_proves_itself(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    with fork(distilled).open() as workspace:
        one, *others = corpus_ids(workspace)
        done = erasure.erase(workspace, *STREAM, one)
        assert (done.pairs, done.marked_versions) == (1, ("default.tickets/1",))
        registry = promotion.open_registry(workspace)
        assert [version.erased for version in registry.versions(*STREAM)] == [True]
        frozen = results.load(workspace, *STREAM, results.FrozenCorpus)
        rebuilt = holdout.reload(workspace, *STREAM, frozen)
        assert (rebuilt.erased, rebuilt.changed) == ((one,), ())
        kept = [row.pair_id for row in (*rebuilt.corpus.train, *rebuilt.corpus.holdout)]
        assert sorted(kept) == sorted(others)
        assert one not in {pair.pair_id for pair in pairs(workspace, *STREAM)}
        assert workspace.state.erased_pairs(*STREAM, [one, others[0]]) == {one}
        with pytest.raises(RegistryError, match="erased pairs"):
            registry.promote(*STREAM, 1)


def test_erasing_a_pair_no_model_used_marks_nothing(
    distilled: Any, fork: Callable[..., Any], captured: Callable[..., Any]
) -> None:
    with fork(distilled).open() as workspace:
        (fresh,) = captured(workspace, 1, skip=400)
        done = erasure.erase(workspace, *STREAM, fresh.pair_id)
        assert (done.pairs, done.marked_versions) == (1, ())


def test_an_unknown_pair_is_erased_without_effect(workspace: Any) -> None:
    done = erasure.erase(workspace, *STREAM, "0198-nobody")
    assert (done.pairs, done.marked_versions) == (0, ())


def test_what_may_lie_in_a_spool_set_aside_is_not_called_erased(
    workspace: Any, captured: Callable[..., Any]
) -> None:
    (pair,) = captured(workspace, 1)
    damaged = workspace.home.spool / "5f.db"
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"no database")
    aside = set_aside(damaged)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"\.damaged-.* set aside and may hold"):
            erasure.erase(workspace, *STREAM, pair.pair_id)
    assert list(pairs(workspace, *STREAM)) == [], "all else is erased"
    assert list(workspace.home.erasures.glob("*")) == [], "nothing is proven"
    aside.unlink()
    done = erasure.erase(workspace, *STREAM, pair.pair_id)
    assert (done.pairs, done.proof["facts"]["rows"]["lake"]) == (1, 1)


def test_a_log_that_goes_on_behind_its_entries_holds_up_what_it_may_hold(workspace: Any) -> None:
    """Set aside with what an earlier round had left behind it, or with a bit that has turned."""
    path = workspace.home.spool / "5f.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        NumberedRow(at, PlainRow(UNREAD, *STREAM, f"pair-{at}", b"[]", b"asked", b"said"))
        for at in range(1, 5)
    ]
    with contextlib.closing(Arrivals.open(path, workspace.vault)) as log:
        assert all(log.append([each]) for each in rows[:3])
        log.restart()
        assert log.append([rows[3]])
    of_all = path.with_suffix(LOG_SUFFIX).stat().st_size
    set_log_aside(path)
    (aside,) = path.parent.glob("*.unread-*")
    assert aside.stat().st_size * 3 == of_all, "nothing of the earlier round is left"
    erasure.erase(workspace, *STREAM, "pair-2")
    with pytest.raises(StoreError, match="set aside"):
        erasure.erase(workspace, *STREAM, "pair-4")
    aside.write_bytes(aside.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="set aside"):
        erasure.erase(workspace, *STREAM, "pair-1")


def test_a_log_set_aside_says_whose_its_records_are(workspace: Any) -> None:
    path = workspace.home.spool / "5f.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(Arrivals.open(path, workspace.vault)) as log:
        row = PlainRow(UNREAD, *STREAM, "pair-1", b"[]", b"asked", b"said")
        assert log.append([NumberedRow(1, row)])
    set_log_aside(path)
    (aside,) = path.parent.glob("*.unread-*")
    erasure.erase(workspace, *STREAM, "pair-2")
    erasure.erase(workspace, STREAM[0], "billing", None)
    for pair_id in ("pair-1", None):
        with pytest.raises(StoreError, match=r"\.unread-.* set aside and may hold") as refusal:
            erasure.erase(workspace, *STREAM, pair_id)
        assert "delete it" in refusal.value.remedy
    erasure.erase(workspace, STREAM[0], None, None)
    erasure.erase(workspace, *STREAM, None)  # the keys that would open it are gone
    assert aside.exists()


def test_erasing_a_namespace_leaves_the_others(
    distilled: Any, fork: Callable[..., Any], captured: Callable[..., Any]
) -> None:
    with fork(distilled).open() as workspace:
        captured(workspace, 3, namespace="billing")
        done = erasure.erase(workspace, *STREAM, None)
        assert (done.pairs, done.marked_versions) == (120, ("default.tickets/1",))
        assert list(pairs(workspace, *STREAM)) == []
        assert len(list(pairs(workspace, "default", "billing"))) == 3


def test_erasing_a_tenant_makes_every_row_and_manifest_unreadable_and_can_be_repeated(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    home = fork(distilled)
    kept = next(home.root.glob("lake/default/captures/**/*.parquet")).read_bytes()
    with home.open() as workspace:
        sealed = workspace.lake.sql("default", "select pair_id, input from captures limit 1")[0]
        done = erasure.erase(workspace, "default", None, None)
        assert (done.pairs, done.marked_versions) == (120, ("default.tickets/1",))
        with pytest.raises(KeyMissing):
            workspace.vault.open(
                sealed["input"],
                tenant="default",
                namespace="tickets",
                pair_id=sealed["pair_id"],
                field="input",
            )
        assert not list(home.root.glob("lake/default/**/*.parquet"))
        assert not list(home.root.glob("corpora/default/**/*.sealed"))
        assert kept
        again = erasure.erase(workspace, "default", None, None)
        assert (again.pairs, again.marked_versions) == (0, ())
        assert "tickets" not in report.status(workspace, "default").text()


def test_an_erasure_of_a_tenant_that_was_cut_short_can_be_repeated(
    distilled: Any, fork: Callable[..., Any]
) -> None:
    """The data key went, the manifests did not."""
    with fork(distilled).open() as workspace:
        workspace.vault.forget("default")
        done = erasure.erase(workspace, "default", None, None)
        assert done.pairs == 120
