"""How many pairs a stream has, kept: counted once, then only what changed.

Belongs here: the counts of `capture status` and of the sensors, and the file they are kept in.
Does not: what the counts mean for a training (`stages.readiness`).

The file (`work/<tenant>/<namespace>/counts.arrow`) names the data files that it counted, and the
versions of the tables that had them. The tables' logs tell what came since: of files that were
added, the pairs are counted before and after and the difference is taken; files that a rewrite put
in the place of counted ones (compaction) hold the same rows and are counted already. Only when
rows went (erasure), or the log or a file is there no more, the stream is counted anew. Whatever is
counted, only files are opened whose range of pair ids meets the ids in question.
The file holds counts, times, ids and keyed hashes; losing it costs one counting.

Distinct inputs are told from a sample of the keyed hashes of inputs: every pair whose hash lies
below a threshold, which halves when the sample outgrows `SAMPLE_ROWS`. Up to that many pairs the
figure is exact; beyond, its standard error is about 0.3 %. All other counts are always exact.
"""

from __future__ import annotations

import os
import re
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import is_name
from apprentice_pipeline.store.delta import FilesGone, mapping_errors, reread
from apprentice_pipeline.store.delta_log import Commit, DataFile
from apprentice_pipeline.store.sealing import CAPTURES, VERDICTS

if TYPE_CHECKING:
    import polars as pl

    from apprentice_pipeline.store.workspace import Workspace

COUNTS_FILE: Final = "counts.arrow"
SAMPLE_ROWS: Final = 250_000
COUNT_ROWS: Final = 250_000
"""Rows counted at once: what bounds the memory of a counting, but for the ids of one day."""
FORMAT: Final = 2
_TRUSTED: Final = ("verified", "approved")
_HASH_BITS: Final = 63
_DATE: Final = re.compile(r"/date=([^/]+)/")
_TABLES: Final = (CAPTURES, VERDICTS)
Counted = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """A stream's pairs: all, those whose newest verdict trusts them, and by day.

    `inputs` are distinct among the trusted, `new_inputs` among those of them that came after
    `since_us`, `recent` among all that came after `recent_us`. `hopeful_inputs` and
    `hopeful_new_inputs` count those that no verifier has seen as well, `unverified_days` are the
    pairs of these, by the date they came.
    """

    pairs: int = 0
    verified: int = 0
    inputs: int = 0
    new_inputs: int = 0
    hopeful_inputs: int = 0
    hopeful_new_inputs: int = 0
    recent: int = 0
    first_at_us: int = 0
    unverified_days: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class _Kept:
    """What the file holds."""

    files: dict[str, list[DataFile]] = field(default_factory=lambda: {each: [] for each in _TABLES})
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TABLES, -1))
    verified: int = 0
    first_at_us: int = 0
    days: dict[str, list[int]] = field(default_factory=dict)
    bits: int = _HASH_BITS
    format: int = FORMAT


def stream_counts(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    *,
    since_us: int,
    recent_us: int,
    on_counted: Counted = lambda _done, _total: None,
) -> StreamCounts:
    """The stream's counts as the lake is now. `on_counted` is told the rows counted and all of
    them, where more than `COUNT_ROWS` are counted anew.

    Raises: StoreError; UsageError for names that are none, since they become folders.
    """
    for name in (tenant, namespace):
        if not is_name(name):
            raise UsageError(
                f"{name!r} cannot name a stream or its tenant",
                remedy="use lower-case letters, digits, _ and -, 63 characters at most",
            )
    file = workspace.home.work / tenant / namespace / COUNTS_FILE
    try:
        kept, sample = _brought_up(workspace, tenant, namespace, file, *_load(file), on_counted)
    except FilesGone:
        anew = _Kept(), _no_rows()
        kept, sample = reread(
            lambda: _brought_up(workspace, tenant, namespace, file, *anew, on_counted)
        )
    return _read_off(kept, sample, since_us, recent_us)


def _brought_up(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    file: Path,
    kept: _Kept,
    sample: pl.DataFrame,
    on_counted: Counted,
) -> tuple[_Kept, pl.DataFrame]:
    lake = workspace.lake
    found = {table: lake.files(tenant, table, namespace) for table in _TABLES}
    now = {table: files for table, (_, files) in found.items()}
    if now == kept.files:
        return kept, sample
    versions = {table: version for table, (version, _) in found.items()}
    lineages = {}
    for table in _TABLES if kept.files[CAPTURES] else ():
        after, until = kept.versions[table], versions[table]
        commits = lake.changes(tenant, table, namespace, after, until)
        lineage = None if commits is None else _lineage(kept.files[table], commits, now[table])
        if lineage is None:
            break
        lineages[table] = lineage
    if len(lineages) == len(_TABLES):
        counted = {table: each.counted for table, each in lineages.items()}
        new = {table: each.new for table, each in lineages.items()}
        was_there = _Files(workspace, tenant, counted)
        is_there = _Files(workspace, tenant, {each: counted[each] + new[each] for each in _TABLES})
        parts, total = _touched(workspace, tenant, new), 0
    else:
        kept, sample, was_there = _Kept(), _no_rows(), None
        is_there = _Files(workspace, tenant, now)
        days = lake.days(tenant, CAPTURES, namespace)[0]
        parts = _by_days(workspace, tenant, now[CAPTURES], days)
        total = sum(rows for _, rows in days)
    done = 0
    for ids in parts:
        was = _no_rows() if was_there is None else was_there.pairs(ids)
        sample = _recount(kept, sample, was, is_there.pairs(ids))
        done += ids.height
        if total > COUNT_ROWS:
            on_counted(done, total)
    kept.files, kept.versions = now, versions
    _save(file, kept, sample)
    return kept, sample


@dataclass(frozen=True, slots=True)
class _Lineage:
    """Files that together hold exactly the rows that were counted, and those with rows that were
    not; some may have been replaced since, and are on the disk until a vacuum."""

    counted: list[DataFile]
    new: list[DataFile]


def _lineage(
    counted: list[DataFile], commits: Iterable[Commit], now: list[DataFile]
) -> _Lineage | None:
    """What became of counted files; None when rows went, or the files of now are not what these
    commits make of them (the table was made anew meanwhile)."""
    old = {each.path: each for each in counted}
    new: dict[str, DataFile] = {}
    there = set(old)
    for commit in commits:
        there.difference_update(commit.removed)
        there.update(each.path for each in commit.added)
        if not commit.rewrite:
            if commit.removed:
                return None
            new |= {each.path: each for each in commit.added}
            continue
        for files in (old, new):
            if commit.removed and files.keys() >= set(commit.removed):
                for path in commit.removed:
                    del files[path]
                files |= {each.path: each for each in commit.added}
    if there != {each.path for each in now}:
        return None
    return _Lineage(list(old.values()), list(new.values()))


def _touched(
    workspace: Workspace, tenant: str, new: Mapping[str, Sequence[DataFile]]
) -> Iterator[pl.DataFrame]:
    """Ids of the pairs that new files are about, each once, in parts that are counted at once."""
    import polars as pl

    scans = [
        workspace.lake.scan_files(tenant, table, [each.path for each in files]).select("pair_id")
        for table, files in new.items()
        if files
    ]
    if not scans:
        return
    with mapping_errors():
        ids = pl.concat(scans).unique().sort("pair_id").collect()
    yield from _slices(ids)


def _by_days(
    workspace: Workspace,
    tenant: str,
    files: Sequence[DataFile],
    days: Iterable[tuple[str, int]],
) -> Iterator[pl.DataFrame]:
    """Ids of all pairs, in runs of days that are counted at once."""
    runs: list[set[str]] = []
    rows = COUNT_ROWS
    for day, count in days:
        if rows + count > COUNT_ROWS:
            runs.append(set())
            rows = 0
        runs[-1].add(day)
        rows += count
    for run in runs:
        chosen = [each.path for each in files if _DATE.search(each.path)[1] in run]  # type: ignore[index]
        scan = workspace.lake.scan_files(tenant, CAPTURES, chosen).select("pair_id")
        with mapping_errors():
            ids = scan.unique().sort("pair_id").collect()
        yield from _slices(ids)


def _slices(ids: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for start in range(0, ids.height, COUNT_ROWS):
        yield ids.slice(start, COUNT_ROWS)


@dataclass(frozen=True, slots=True)
class _Files:
    """A stream as some of its data files have it."""

    workspace: Workspace
    tenant: str
    files: Mapping[str, Sequence[DataFile]]

    def _holding(self, table: str, ids: Sequence[str]) -> pl.LazyFrame | None:
        """The table's files that can have rows of `ids`, which are in order; None: there are none.
        (An empty scan would do, but takes its columns from Arrow, which takes 0.4 s to load.)"""
        paths = [each.path for each in self.files[table] if _may_hold(each, ids)]
        return self.workspace.lake.scan_files(self.tenant, table, paths) if paths else None

    def pairs(self, ids: pl.DataFrame) -> pl.DataFrame:
        """Those of `ids` (in order) that are pairs here: date, time, keyed hash, newest verdict."""
        import polars as pl

        listed = ids["pair_id"].to_list()
        captures, verdicts = (self._holding(table, listed) for table in _TABLES)
        if captures is None or not listed:
            return _no_rows()
        among = pl.col("pair_id").is_between(pl.lit(listed[0]), pl.lit(listed[-1]))
        chosen = ids.lazy()
        known = (
            captures.filter(among & pl.col("is_pair"))
            .select(
                "pair_id",
                "date",
                "created_at_us",
                hash=pl.col("dedup_key").bin.slice(0, 8).bin.reinterpret(dtype=pl.UInt64) // 2,
            )
            .join(chosen, on="pair_id", how="semi")
            .unique("pair_id", keep="any")
        )
        if verdicts is None:
            with mapping_errors():
                return (
                    known.with_columns(verdict=pl.lit(None, pl.String)).select(_COLUMNS).collect()
                )
        said = (
            verdicts.filter(among)
            .select("pair_id", "decided_at_us", "verdict")
            .join(chosen, on="pair_id", how="semi")
            .group_by("pair_id")
            .agg(pl.col("verdict").sort_by("decided_at_us", maintain_order=True).last())
        )
        with mapping_errors():
            return known.join(said, on="pair_id", how="left").select(_COLUMNS).collect()


def _may_hold(file: DataFile, ids: Sequence[str]) -> bool:
    """Whether one of `ids`, which are in order, lies in the file's range."""
    if not file.last:
        return True
    place = bisect_left(ids, file.first)
    return place < len(ids) and ids[place] <= file.last


def _recount(
    kept: _Kept, sample: pl.DataFrame, was: pl.DataFrame, now: pl.DataFrame
) -> pl.DataFrame:
    """Takes what was counted of some pairs out of `kept` and what they are now in; the sample."""
    import polars as pl

    for rows, sign in ((was, -1), (now, 1)):
        trusted = rows.filter(pl.col("verdict").is_in(_TRUSTED)).height
        kept.verified += sign * trusted
        by_day = rows.group_by("date").agg(pl.len(), pl.col("verdict").is_not_null().sum())
        for day, pairs, judged in by_day.iter_rows():
            counted = kept.days.setdefault(day, [0, 0])
            counted[0] += sign * pairs
            counted[1] += sign * judged
    if now.height:
        first = now["created_at_us"].min()
        assert isinstance(first, int)  # there are rows
        kept.first_at_us = min(kept.first_at_us or first, first)
    left = sample.join(was.select("pair_id"), on="pair_id", how="anti")
    sample = pl.concat([left, now.filter(pl.col("hash") <= (1 << kept.bits) - 1)])
    while sample.height > SAMPLE_ROWS and kept.bits:
        kept.bits -= 1
        sample = sample.filter(pl.col("hash") <= (1 << kept.bits) - 1)
    return sample


def _read_off(kept: _Kept, sample: pl.DataFrame, since_us: int, recent_us: int) -> StreamCounts:
    import polars as pl

    each = 1 << (_HASH_BITS - kept.bits)
    trusted = sample.filter(pl.col("verdict").is_in(_TRUSTED))
    hopeful = sample.filter(pl.col("verdict").is_null() | pl.col("verdict").is_in(_TRUSTED))

    def distinct(rows: pl.DataFrame, after_us: int) -> int:
        return rows.filter(pl.col("created_at_us") > after_us)["hash"].n_unique() * each

    return StreamCounts(
        pairs=sum(pairs for pairs, _ in kept.days.values()),
        verified=kept.verified,
        inputs=trusted["hash"].n_unique() * each,
        new_inputs=distinct(trusted, since_us),
        hopeful_inputs=hopeful["hash"].n_unique() * each,
        hopeful_new_inputs=distinct(hopeful, since_us),
        recent=distinct(sample, recent_us),
        first_at_us=kept.first_at_us,
        unverified_days=tuple(
            (day, pairs - judged)
            for day, (pairs, judged) in sorted(kept.days.items())
            if pairs > judged
        ),
    )


_COLUMNS: Final = ("pair_id", "date", "created_at_us", "hash", "verdict")


def _no_rows() -> pl.DataFrame:
    import polars as pl

    kinds = (pl.String, pl.String, pl.Int64, pl.UInt64, pl.String)
    return pl.DataFrame(schema=dict(zip(_COLUMNS, kinds, strict=True)))


def _load(file: Path) -> tuple[_Kept, pl.DataFrame]:
    """What the file holds; nothing where it is absent, unreadable or of another format."""
    import polars as pl

    try:
        with open(file, "rb") as handle:
            kept = _Kept(**orjson.loads(handle.readline()))
            if kept.format == FORMAT:
                kept.files = {
                    table: [DataFile(**each) for each in files]  # type: ignore[arg-type]
                    for table, files in kept.files.items()
                }
                return kept, pl.read_ipc(handle.read())
    except (OSError, ValueError, TypeError, pl.exceptions.PolarsError):
        pass
    return _Kept(), _no_rows()


def _save(file: Path, kept: _Kept, sample: pl.DataFrame) -> None:
    """Replaces the file whole; not being able to is no failure, only a counting more next time."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(orjson.dumps(asdict(kept)) + b"\n")
            sample.write_ipc(handle)
        os.replace(draft, file)
    except OSError:
        draft.unlink(missing_ok=True)
