"""Kept counts equal a counting anew, whatever was added, judged, compacted or erased between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import Exchange, Verdict
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store import rollup
from apprentice_pipeline.store.erasure import erase
from apprentice_pipeline.store.rollup import StreamCounts, stream_counts
from apprentice_pipeline.store.rows import record_rows
from apprentice_pipeline.store.workspace import Workspace

Make = Callable[..., Exchange]
Store = Callable[..., None]
HOURS = 60
"""Exchanges of the fixture are a minute apart."""


def judged(made: Exchange, word: str, after: int = 1) -> Verdict:
    moment = made.created_at_us + after
    return Verdict(made.pair_id, made.namespace, moment, "v", word, None, 0, "")


def counts(
    workspace: Workspace, since_us: int = 0, recent_us: int = 0, **more: Any
) -> StreamCounts:
    times = {"since_us": since_us, "recent_us": recent_us}
    return stream_counts(workspace, "acme", "tickets", **times, **more)


@pytest.mark.parametrize("names", [("acme", "../x"), ("../x", "tickets"), ("acme", "")])
def test_what_is_no_name_becomes_no_folder(workspace: Workspace, names: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="cannot name a stream"):
        stream_counts(workspace, *names, since_us=0, recent_us=0)
    assert not [*workspace.home.work.rglob("counts.arrow")]


def anew(workspace: Workspace, **times: Any) -> StreamCounts:
    kept = workspace.home.work / "acme" / "tickets" / "counts.arrow"
    aside = kept.with_name("aside")
    if kept.exists():
        kept.rename(aside)
    found = counts(workspace, **times)
    kept.unlink(missing_ok=True)
    if aside.exists():
        aside.rename(kept)
    return found


def test_a_stream_s_pairs_by_verdict_and_day(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    day = 24 * HOURS
    made = [exchange(number * day // 2) for number in range(6)]
    same = exchange(5 * day // 2)
    store(*made, same, exchange(1, status=500), exchange(2, namespace="mail"))
    store(*(judged(each, "verified") for each in made[:4]), judged(made[4], "quarantined"))
    store(judged(made[0], "rejected", 9), judged(made[4], "approved", 9), judged(same, "verified"))
    found = counts(workspace, since_us=made[2].created_at_us, recent_us=made[3].created_at_us)
    assert (found.pairs, found.verified, found.inputs) == (7, 5, 5)
    assert (found.new_inputs, found.recent) == (3, 2)
    assert (found.hopeful_inputs, found.hopeful_new_inputs) == (5, 3)
    assert found.first_at_us == made[0].created_at_us
    assert found.unverified_days == (("2025-10-11", 1),)


def test_nothing_captured_is_nothing(workspace: Workspace) -> None:
    assert counts(workspace) == StreamCounts()


def test_a_damaged_or_older_file_costs_a_counting_and_no_more(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    store(exchange(0))
    assert counts(workspace).pairs == 1
    kept: Path = workspace.home.work / "acme" / "tickets" / "counts.arrow"
    whole = kept.read_bytes()
    for damage in (
        b"",
        b"{}\n",
        whole[:40],
        whole[:-30],
        whole.replace(b'"format":2', b'"format":0'),
    ):
        kept.write_bytes(damage)
        assert counts(workspace).pairs == 1
    assert kept.stat().st_mode & 0o777 == 0o600


WORDS = st.sampled_from(["verified", "quarantined", "rejected"])
OTHER = st.sampled_from(["compact", "erase", "erase-all", "count"])
STEP = st.one_of(
    st.tuples(st.just("capture"), st.integers(1, 4), st.integers(0, 3)),
    st.tuples(st.just("judge"), WORDS, st.integers(0, 9)),
    st.tuples(OTHER, st.just(0), st.integers(0, 9)),
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=2, max_size=7))
def test_counts_that_were_kept_equal_counts_made_anew(
    tmp_path_factory: pytest.TempPathFactory, exchange: Make, steps: Any
) -> None:
    home = tmp_path_factory.mktemp("rollup") / "home"
    workspace = Workspace.open(load_settings({"APPRENTICE_HOME": str(home)}))
    made: list[Exchange] = []

    def put(*records: Any) -> None:
        for table, rows in record_rows(workspace.vault, "acme", records).items():
            workspace.lake.append("acme", table, rows)

    put(exchange(0))
    for place, (kind, much, which) in enumerate(steps):
        if kind == "capture":
            new = [exchange(which * 12 * HOURS + number) for number in range(int(much))]
            put(*new)
            made += new
        elif kind == "judge" and made:
            put(judged(made[which % len(made)], str(much), place))
        elif kind == "compact":
            workspace.lake.compact("acme")
        elif kind == "erase" and made:
            gone = made.pop(which % len(made))
            erase(workspace, "acme", namespace="tickets", pair_ids=[gone.pair_id], now_us=1)
        elif kind == "erase-all":
            erase(workspace, "acme", namespace="tickets", now_us=1)
            made = []
        kept = counts(workspace)
        assert kept == anew(workspace)
    workspace.close()


def spoil(workspace: Workspace, namespace: str = "tickets") -> None:
    """Makes every data file of a namespace unreadable: who opens one fails."""
    for file in (workspace.home.lake / "acme").glob(f"*/namespace={namespace}/**/*.parquet"):
        file.write_bytes(b"no parquet")


def test_a_compaction_costs_no_counting(workspace: Workspace, store: Store, exchange: Make) -> None:
    made = [exchange(number) for number in range(6)]
    for each in made:
        store(each, judged(each, "verified"))
    before = counts(workspace)
    assert (before.pairs, before.verified) == (6, 6)
    assert workspace.lake.compact("acme") > 0
    workspace.lake.vacuum("acme", 0)
    spoil(workspace)
    assert counts(workspace) == before


def test_after_a_drain_only_files_that_can_hold_its_pairs_are_opened(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """Compacted in between or not: what came before is not read again."""
    made = [exchange(number) for number in range(6)]
    for each in made:
        store(each, judged(each, "verified"))
    assert counts(workspace).pairs == 6
    workspace.lake.compact("acme")
    spoil(workspace)
    late = [exchange(number) for number in range(50, 53)]
    store(*late)
    assert (counts(workspace).pairs, counts(workspace).verified) == (9, 6)
    store(*(judged(each, "verified") for each in late))
    assert (counts(workspace).pairs, counts(workspace).verified) == (9, 9)


def test_rows_that_a_compaction_merged_before_they_were_counted_are_counted_once(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    made = [exchange(number) for number in range(9)]
    store(*made[:3])
    assert counts(workspace).pairs == 3
    store(*made[3:6], judged(made[0], "verified"))
    workspace.lake.compact("acme")
    store(*made[6:], judged(made[1], "verified"), judged(made[4], "verified"))
    workspace.lake.compact("acme")
    found = counts(workspace)
    assert (found.pairs, found.verified) == (9, 3)
    assert found == anew(workspace)


def test_a_day_of_more_rows_than_are_counted_at_once_is_counted_whole_and_once(
    workspace: Workspace, store: Store, exchange: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [exchange(number) for number in range(8)]
    store(*made, *(judged(each, "verified") for each in made[::2]), judged(made[7], "rejected"))
    whole = anew(workspace)
    monkeypatch.setattr(rollup, "COUNT_ROWS", 3)
    assert anew(workspace) == whole
    told: list[tuple[int, int]] = []
    anew(workspace, on_counted=lambda *rows: told.append(rows))
    assert told == [(3, 8), (6, 8), (8, 8)]
    assert (whole.pairs, whole.verified, whole.unverified_days[0][1]) == (8, 4, 3)


def test_looking_again_after_a_drain_loads_no_arrow(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """It takes longer to load than the counting itself."""
    store(exchange(0), judged(exchange(0), "verified"))
    assert counts(workspace).pairs == 1
    store(exchange(1), judged(exchange(1), "verified"))
    program = (
        "import sys\n"
        "from apprentice_pipeline.settings import load_settings\n"
        "from apprentice_pipeline.store.rollup import stream_counts\n"
        "from apprentice_pipeline.store.workspace import Workspace\n"
        "opened = Workspace.open(load_settings({'APPRENTICE_HOME': sys.argv[1]}))\n"
        "print(stream_counts(opened, 'acme', 'tickets', since_us=0, recent_us=0).pairs)\n"
        "print('pyarrow' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(workspace.home.root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr


def test_an_erasure_costs_other_namespaces_no_counting(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    mail = [exchange(number, namespace="mail") for number in range(3)]
    store(*mail, *(exchange(number) for number in range(4)))
    assert counts(workspace).pairs == 4
    spoil(workspace)
    erase(workspace, "acme", namespace="mail", pair_ids=[mail[0].pair_id], now_us=1)
    assert counts(workspace).pairs == 4


def test_a_table_that_was_made_anew_is_counted_anew(
    workspace: Workspace, store: Store, exchange: Make
) -> None:
    """By another node: this one's counts were not forgotten with it."""
    store(exchange(0), exchange(1))
    assert counts(workspace).pairs == 2
    workspace.lake.erase("acme")
    for number in range(2, 5):
        store(exchange(number))
    assert counts(workspace).pairs == 3


def test_beyond_the_sample_only_distinct_inputs_are_estimated(
    workspace: Workspace, store: Store, exchange: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "SAMPLE_ROWS", 200)
    monkeypatch.setattr(rollup, "COUNT_ROWS", 300)
    made = [exchange(number) for number in range(1_000)]
    for start in range(0, 1_000, 250):
        part = made[start : start + 250]
        store(*part, *(judged(each, "verified") for each in part))
        found = counts(workspace)
        assert (found.pairs, found.verified) == (start + 250, start + 250)
        assert found.inputs == pytest.approx(start + 250, rel=0.4)
    assert anew(workspace) == counts(workspace)
