"""The lake: appends, scans, SQL, upkeep."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import StorageFull, StoreError
from apprentice_pipeline.records import Exchange, verdicts_schema
from apprentice_pipeline.store import delta
from apprentice_pipeline.store.lake import PARTITIONS, Lake
from apprentice_pipeline.store.rows import record_rows, schema_of
from apprentice_pipeline.store.sealing import TABLES
from apprentice_pipeline.vault import Vault


@pytest.fixture
def captures(vault: Vault, exchange: Callable[..., Exchange]) -> Callable[..., pa.Table]:
    """Sealed captures, numbered."""

    def make(*numbers: int, **changes: object) -> pa.Table:
        records = [exchange(number, **changes) for number in numbers]
        return record_rows(vault, "acme", records)["captures"]

    return make


def test_tables_that_do_not_exist_yet_are_empty_with_their_columns(lake: Lake) -> None:
    for name in TABLES:
        empty = lake.scan("acme", name)
        assert empty.collect_schema().names() == schema_of(name).names
        assert empty.collect().height == 0
    assert lake.sql("acme", "SELECT count(*) AS n FROM captures") == [{"n": 0}]
    assert lake.tenants() == []
    assert lake.namespaces("acme") == []
    assert lake.compact("acme") == lake.vacuum("acme") == lake.erase("acme") == 0


def test_appended_rows_are_scanned_lazily_by_partition(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    lake.append("acme", "captures", captures(0, 1))
    lake.append("acme", "captures", captures(2, namespace="mail"))
    lake.append("acme", "captures", captures(60 * 24 * 3))
    scan = lake.scan("acme", "captures")
    assert scan.collect().height == 4
    assert scan.filter(pl.col("namespace") == "mail").collect().height == 1
    assert lake.namespaces("acme") == ["mail", "tickets"]
    plan = scan.filter(pl.col("namespace") == "mail").explain()
    assert plan.count(".parquet") == 1
    assert "ESTIMATED" in plan or "Parquet SCAN" in plan


def test_tenants_are_apart(lake: Lake, captures: Callable[..., pa.Table]) -> None:
    lake.append("acme", "captures", captures(0))
    lake.append("umbrella", "captures", captures(1))
    assert lake.tenants() == ["acme", "umbrella"]
    assert lake.scan("acme", "captures").collect().height == 1


@pytest.mark.parametrize("name", ["../up", "", "A", "a/b", "_tenants"])
def test_a_tenant_that_is_no_name_is_refused(name: str, lake: Lake) -> None:
    with pytest.raises(StoreError):
        lake.scan(name, "captures")


def test_a_table_that_is_none_and_columns_that_do_not_fit_are_refused(
    lake: Lake, captures: Callable[..., pa.Table]
) -> None:
    with pytest.raises(StoreError):
        lake.append("acme", "secrets", captures(0))
    with pytest.raises(StoreError):
        lake.append("acme", "verdicts", captures(0))
    with pytest.raises(StoreError):
        lake.scan("acme", "secrets")


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8")), st.floats(0, 1) | st.none()),
        min_size=1,
        max_size=5,
    )
)
def test_text_of_every_sort_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float | None]]
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    documents = [
        {
            "pair_id": str(number),
            "namespace": "tickets",
            "date": "2026-01-01",
            "decided_at_us": number,
            "verifier": "v",
            "verdict": "verified",
            "confidence": confidence,
            "resamples": 0,
            "reason": reason,
        }
        for number, (reason, confidence) in enumerate(rows)
    ]
    lake.append("acme", "verdicts", pa.Table.from_pylist(documents, schema=verdicts_schema()))
    assert lake.scan("acme", "verdicts").sort("decided_at_us").collect().to_dicts() == documents


def test_sql_takes_parameters_and_sees_the_tenants_tables_only(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    lake.append("acme", "captures", captures(0, 1, 2))
    query = "SELECT namespace, count(*) AS pairs FROM captures WHERE namespace = $n GROUP BY ALL"
    assert lake.sql("acme", query, n="tickets") == [{"namespace": "tickets", "pairs": 3}]
    assert lake.sql("acme", query, n="x' OR 'a' = 'a") == []
    for forbidden in (f"SELECT * FROM read_text('{tmp_path}/*')", "COPY captures TO '/tmp/out'"):
        with pytest.raises(StoreError) as raised:
            lake.sql("acme", forbidden)
        assert str(tmp_path) not in str(raised.value)


def test_many_writers_append_at_once(tmp_path: Path, captures: Callable[..., pa.Table]) -> None:
    tables = [captures(number) for number in range(12)]

    def append(number: int) -> None:
        lake = Lake(str(tmp_path / "lake"))
        lake.append("acme", "captures", tables[number], app_id=f"spool-{number}", version=number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(12)))
    lake = Lake(str(tmp_path / "lake"))
    assert lake.scan("acme", "captures").collect().height == 12
    assert lake.transaction_version("acme", "captures", "spool-7") == 7
    assert lake.tenants() == ["acme"]


def test_stamps_survive_a_checkpoint_of_the_log(
    lake: Lake, captures: Callable[..., pa.Table]
) -> None:
    lake.append("acme", "captures", captures(0), app_id="spool", version=41)
    opened = lake.table("acme", "captures")
    assert opened is not None
    opened.create_checkpoint()
    lake.append("acme", "captures", captures(1), app_id="other", version=1)
    assert Lake(lake._uri).transaction_version("acme", "captures", "spool") == 41


def test_the_log_stays_short_and_the_stamp_of_a_drain_outlives_what_is_cut_from_it(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    """Every append lists the log: a day of an append a second would cost seconds each."""
    log = tmp_path / "lake" / "acme" / "captures" / "_delta_log"
    lake.append("acme", "captures", captures(0), app_id="spool", version=41)
    for number in range(1, 150):
        lake.append("acme", "captures", captures(number))
    aged = time.time() - (delta.LOG_HOURS + 1) * 3_600
    for file in log.iterdir():
        os.utime(file, (aged, aged))
    for number in range(150, 210):
        lake.append("acme", "captures", captures(number))
    assert len(list(log.glob("*.json"))) < 150
    again = Lake(lake._uri)
    assert again.transaction_version("acme", "captures", "spool") == 41
    assert again.scan("acme", "captures").collect().height == 210


def test_compaction_merges_files_and_vacuum_removes_the_old_ones(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    for number in range(5):
        lake.append("acme", "captures", captures(number))
    before = lake.scan("acme", "captures").sort("pair_id").collect()
    assert lake.compact("acme") == 5
    assert lake.vacuum("acme") == 0
    assert lake.vacuum("acme", 0) == 5
    assert len(list((tmp_path / "lake").rglob("part-*.parquet"))) == 2  # and the catalogue's
    assert lake.scan("acme", "captures").sort("pair_id").collect().equals(before)


def test_vacuum_spares_what_an_append_may_have_under_way(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    lake.append("acme", "captures", captures(0))
    young = tmp_path / "lake" / "acme" / "captures" / "namespace=tickets" / "young.parquet"
    young.parent.mkdir(exist_ok=True)
    old = young.with_name("old.parquet")
    for file in (young, old):
        file.write_bytes(b"not committed")
    os.utime(old, (1, 1))
    lake.vacuum("acme", 0)
    assert young.exists()
    assert not old.exists()


def test_erasing_pairs_leaves_no_byte_of_them(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    """Not in old file versions, and not in what a crashed append left."""
    rows = captures(*range(6))
    ids = rows.column("pair_id").to_pylist()
    lake.append("acme", "captures", rows.slice(0, 3))
    lake.append("acme", "captures", rows.slice(3))
    orphan = tmp_path / "lake" / "acme" / "captures" / "orphan.parquet"
    orphan.write_bytes(rows.column("input")[0].as_py())
    assert lake.erase("acme", namespace="tickets", pair_ids=[ids[0], ids[4], "o'ther"]) == 2
    kept = lake.scan("acme", "captures").collect()
    assert sorted(kept["pair_id"]) == sorted(set(ids) - {ids[0], ids[4]})
    sealed = [rows.column("input")[at].as_py() for at in (0, 4)]
    for file in (tmp_path / "lake").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret[5:40] in content for secret in sealed)


def test_erasing_a_namespace_or_a_tenant_leaves_the_others(
    lake: Lake, captures: Callable[..., pa.Table], tmp_path: Path
) -> None:
    lake.append("acme", "captures", captures(0, 1))
    lake.append("acme", "captures", captures(2, namespace="mail"))
    lake.append("umbrella", "captures", captures(3))
    assert lake.erase("acme", namespace="tickets") == 2
    assert lake.namespaces("acme") == ["mail"]
    assert lake.erase("acme") == 1
    assert lake.tenants() == ["umbrella"]
    assert not (tmp_path / "lake" / "acme").exists()
    lake.append("acme", "captures", captures(4))
    assert lake.tenants() == ["acme", "umbrella"]


def test_erasure_and_appends_at_once_lose_nothing(
    tmp_path: Path, captures: Callable[..., pa.Table]
) -> None:
    uri = str(tmp_path / "lake")
    tables = [captures(number) for number in range(20)]
    Lake(uri).append("acme", "captures", captures(100, 101))
    first = Lake(uri).scan("acme", "captures").collect()["pair_id"].to_list()

    def write() -> None:
        for table in tables:
            Lake(uri).append("acme", "captures", table)

    writer = threading.Thread(target=write)
    writer.start()
    Lake(uri).erase("acme", namespace="tickets", pair_ids=first[:1])
    Lake(uri).compact("acme")
    Lake(uri).erase("acme", namespace="tickets", pair_ids=first[1:])
    writer.join()
    kept = Lake(uri).scan("acme", "captures").collect()["pair_id"].to_list()
    assert sorted(kept) == sorted(t.column("pair_id")[0].as_py() for t in tables)


@pytest.mark.parametrize("name", ["my lake", "50% ü"])
def test_a_folder_may_have_any_name(
    name: str, tmp_path: Path, captures: Callable[..., pa.Table]
) -> None:
    lake = Lake(str(tmp_path / name))
    assert lake.scan("acme", "captures").collect().height == 0
    lake.append("acme", "captures", captures(0, 1))
    lake.append("acme", "captures", captures(2, namespace="mail"))
    found = lake.scan("acme", "captures").filter(pl.col("namespace") == "tickets").collect()
    assert found.columns == schema_of("captures").names
    assert found.height == 2
    assert lake.sql("acme", "SELECT count(*) AS n FROM captures") == [{"n": 3}]
    assert lake.erase("acme", namespace="tickets") == 2
    assert lake.scan("acme", "captures").collect().height == 1


def test_a_uri_of_a_local_folder_works_too(
    tmp_path: Path, captures: Callable[..., pa.Table]
) -> None:
    (tmp_path / "my lake").mkdir()
    lake = Lake((tmp_path / "my lake").as_uri())
    lake.append("acme", "captures", captures(0))
    assert lake.scan("acme", "captures").collect().height == 1
    assert lake.namespaces("acme") == ["tickets"]
    lake.erase("acme")
    assert lake.tenants() == []


def test_an_object_store_that_cannot_be_reached_is_reported_with_a_remedy() -> None:
    lake = Lake("nosuch://bucket/lake")
    with pytest.raises(StoreError) as raised:
        lake.tenants()
    assert "store.lake_uri" in raised.value.remedy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield Path("/dev/full") / "lake"
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_from_other_failures(
    small_disk: Path, captures: Callable[..., pa.Table]
) -> None:
    lake = Lake(str(small_disk / "lake"))

    def fill() -> None:
        for number in range(20):
            noise = os.urandom(100_000).hex()
            lake.append("acme", "captures", captures(number, output=noise))

    with pytest.raises(StoreError) as raised:
        fill()
    assert isinstance(raised.value, StorageFull) or "full" in str(small_disk)
    assert raised.value.remedy


@pytest.mark.parametrize("name", ["lake", "a lake"])
def test_a_lake_from_before_a_column_was_added_is_read_and_appended_to(
    tmp_path: Path, captures: Callable[..., pa.Table], name: str
) -> None:
    """Its rows have null there; nothing is rewritten."""
    folder = tmp_path / name
    before = captures(0, 1).drop_columns(["ending"])
    delta.append(f"{folder}/acme/captures", before, options={}, partition_by=PARTITIONS)
    lake = Lake(str(folder))
    assert lake.scan("acme", "captures").collect().height == 2
    lake.append("acme", "captures", captures(2, 3, 4))
    said = ["whole"] * 3 + [None] * 2
    found = lake.scan("acme", "captures").collect()["ending"].to_list()
    assert sorted(found, key=lambda ending: ending is None) == said
    rows = lake.sql("acme", "select count(*) as n, count(ending) as said from captures")
    assert rows == [{"n": 5, "said": 3}]
