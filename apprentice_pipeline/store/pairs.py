"""What was captured, joined with what is known of it: pairs, their counts, label rows.

Belongs here: the newest verdict and the newest human label of each pair, opening sealed content
in memory, batch by batch. Does not: deciding which pairs are fit to learn from (`corpus`).
Promises: memory holds one batch of content, and the ids and times of a span of whole days
(`SPAN_ROWS` pairs, or one day's), whatever the corpus; the order is that of time; one
call sees one snapshot, less what is erased meanwhile; a row whose key an erasure took is passed
over and told. A person's label outranks every verifier's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from apprentice_pipeline.errors import KeyErased
from apprentice_pipeline.records import Pair, date_of, now_us, rfc3339
from apprentice_pipeline.store.delta import FilesGone, mapping_errors, reread
from apprentice_pipeline.store.sealing import CAPTURES, FEEDBACK, VERDICTS, open_field

if TYPE_CHECKING:
    import polars as pl

    from apprentice_pipeline.store.workspace import Workspace

VERDICTS_OF_PAIRS: Final = ("unverified", "verified", "quarantined", "approved", "rejected")
SPAN_ROWS: Final = 100_000
BATCH_ROWS: Final = 2_000
BATCH_BYTES: Final = 24 * 1024 * 1024
"""Content read at once: so many rows, or as many as take about so many bytes."""
_DAY_US: Final = 86_400_000_000
_RECENT_DAYS: Final = 7
_CONTENT: Final = (
    "pair_id",
    "created_at_us",
    "provider",
    "model",
    "input",
    "output",
    "latency_us",
    "input_tokens",
    "output_tokens",
    "usage_source",
    "cost_usd",
    "inclusion_probability",
    "dedup_key",
)


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How many pairs a namespace has, by newest verdict; `recent_per_day` over up to a week."""

    pairs: int = 0
    verified: int = 0
    quarantined: int = 0
    approved: int = 0
    rejected: int = 0
    unverified: int = 0
    first_at_us: int | None = None
    last_at_us: int | None = None
    recent_per_day: float = 0.0


def pairs(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    verdicts: Collection[str] | None = None,
    ids: Collection[str] | None = None,
    min_confidence: float | None = None,
    limit: int | None = None,
    batch: int = BATCH_ROWS,
    on_erased: Callable[[str], None] = lambda _pair_id: None,
) -> Iterator[Pair]:
    """The pairs of a namespace in time order, opened in memory.

    `since_us` is included, `until_us` is not; `verdicts` and `ids` keep those named;
    `min_confidence` leaves out pairs that were never resampled. A pair that was erased by its id is
    left out, also while its row is still on its way out of the lake; one whose key was erased with
    its tenant is left out and told to `on_erased`.
    Raises: KeyMissing when a key is gone that no erasure took; CannotOpen, StoreError.
    """
    snapshot = _Snapshot(workspace, tenant, namespace)
    wanted = _Wanted(since_us, until_us, verdicts, ids, min_confidence)
    left = limit
    for part in _chosen(snapshot, wanted):
        chosen = part if left is None else part.head(left)
        step = max(1, min(batch, snapshot.batch_rows))
        for start in range(0, chosen.height, step):
            rows = snapshot.read(partial(_View.content, chosen=chosen.slice(start, step)))
            gone = workspace.state.erased_pairs(tenant, namespace, rows["pair_id"])
            for row in rows.iter_rows(named=True):
                if row["pair_id"] in gone:
                    continue
                try:
                    opened = _pair(workspace, tenant, namespace, row)
                except KeyErased:
                    on_erased(row["pair_id"])
                    continue
                yield opened
        if left is not None and (left := left - chosen.height) <= 0:
            return


def pair_counts(
    workspace: Workspace, tenant: str, namespace: str, *, at_us: int | None = None
) -> PairCounts:
    """Counts by newest verdict, without opening anything. Raises: StoreError."""
    import polars as pl

    at_us = now_us() if at_us is None else at_us
    since = at_us - _RECENT_DAYS * _DAY_US

    def count() -> list[dict[str, Any]]:
        grouped = _View.of(workspace, tenant, namespace).index().group_by("verdict")
        with mapping_errors():
            counted = grouped.agg(
                pl.len().alias("pairs"),
                pl.col("created_at_us").min().alias("first"),
                pl.col("created_at_us").max().alias("last"),
                (pl.col("created_at_us") >= since).sum().alias("recent"),
            )
            return counted.collect().rows(named=True)

    by_verdict = reread(count)
    if not by_verdict:
        return PairCounts()
    first = min(row["first"] for row in by_verdict)
    span_us = min(max(at_us - first, _DAY_US), _RECENT_DAYS * _DAY_US)
    return PairCounts(
        pairs=sum(row["pairs"] for row in by_verdict),
        first_at_us=first,
        last_at_us=max(row["last"] for row in by_verdict),
        recent_per_day=sum(row["recent"] for row in by_verdict) * _DAY_US / span_us,
        **{row["verdict"]: row["pairs"] for row in by_verdict},
    )


def label_rows(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    min_confidence: float | None = None,
    limit: int | None = None,
    on_erased: Callable[[str], None] = lambda _pair_id: None,
) -> Iterator[dict[str, Any]]:
    """The rows of `labels`, as the contract names their fields, in time order.

    `on_erased`, and what it raises: as `pairs`.
    """
    for pair in pairs(
        workspace,
        tenant,
        namespace,
        since_us=since_us,
        until_us=until_us,
        min_confidence=min_confidence,
        limit=limit,
        on_erased=on_erased,
    ):
        yield label_row(pair)


def label_row(pair: Pair) -> dict[str, Any]:
    """One row of `labels`."""
    return {
        "pair_id": pair.pair_id,
        "namespace": pair.namespace,
        "created_at": rfc3339(pair.created_at_us),
        "provider": pair.provider,
        "model": pair.model,
        "input": pair.input,
        "output": pair.output,
        "latency_us": pair.latency_us,
        "input_tokens": pair.input_tokens,
        "output_tokens": pair.output_tokens,
        "usage_source": pair.usage_source,
        "cost_usd": pair.cost_usd,
        "inclusion_probability": pair.inclusion_probability,
        "verdict": pair.verdict,
        "confidence": pair.confidence,
    }


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which pairs are asked for; see `pairs`."""

    since_us: int | None = None
    until_us: int | None = None
    verdicts: Collection[str] | None = None
    ids: Collection[str] | None = None
    min_confidence: float | None = None

    def of_known(self, known: pl.LazyFrame) -> pl.LazyFrame:
        """The part that ids and times decide."""
        import polars as pl

        if self.since_us is not None:
            known = known.filter(pl.col("created_at_us") >= self.since_us)
        if self.until_us is not None:
            known = known.filter(pl.col("created_at_us") < self.until_us)
        if self.ids is not None:
            known = known.filter(pl.col("pair_id").is_in(list(self.ids)))
        return known

    def of_judged(self, judged: pl.LazyFrame) -> pl.LazyFrame:
        """The part that verdicts decide."""
        import polars as pl

        if self.verdicts is not None:
            judged = judged.filter(pl.col("verdict").is_in(list(self.verdicts)))
        if self.min_confidence is not None:
            judged = judged.filter(pl.col("confidence") >= self.min_confidence)
        return judged

    def covers(self, day: str) -> bool:
        """Whether a day may hold what is asked for."""
        since = "" if self.since_us is None else date_of(self.since_us)
        return since <= day and (self.until_us is None or day <= date_of(self.until_us))


class _Snapshot:
    """One view for a whole call; a newer one, without what was erased, once an erasure has
    removed that view's files."""

    def __init__(self, workspace: Workspace, tenant: str, namespace: str) -> None:
        self._open = partial(_View.of, workspace, tenant, namespace)
        self._view: _View | None = None
        days = partial(workspace.lake.days, tenant, CAPTURES, namespace)
        self.days, row_bytes = reread(days)
        self.batch_rows = max(1, BATCH_BYTES // max(1, row_bytes))

    def read(self, step: Callable[[_View], pl.DataFrame]) -> pl.DataFrame:
        """What `step` reads. Raises: StoreError."""

        def once() -> pl.DataFrame:
            view = self._view = self._view or self._open()
            try:
                return step(view)
            except FilesGone:
                self._view = None
                raise

        return reread(once)


def _chosen(snapshot: _Snapshot, wanted: _Wanted) -> Iterator[pl.DataFrame]:
    """Ids, times, verdicts and sealed edits of what is wanted, in time order, part by part."""
    for span in _spans(snapshot.days, wanted):
        known = snapshot.read(partial(_View.known, span=span, wanted=wanted))
        for start in range(0, known.height, SPAN_ROWS):
            part = known.slice(start, SPAN_ROWS)
            yield snapshot.read(partial(_View.judged, known=part, wanted=wanted))


def _spans(days: Iterable[tuple[str, int]], wanted: _Wanted) -> Iterator[tuple[str, str]]:
    """First and last dates of runs of days that have about `SPAN_ROWS` rows together."""
    first = last = ""
    rows = 0
    for day, count in days:
        if not wanted.covers(day):
            continue
        if rows and rows + count > SPAN_ROWS:
            yield first, last
            rows = 0
        first, last, rows = (first if rows else day), day, rows + count
    if rows:
        yield first, last


@dataclass(frozen=True, slots=True)
class _View:
    """One snapshot of a namespace's tables."""

    captures: pl.LazyFrame
    verdicts: pl.LazyFrame
    labels: pl.LazyFrame

    @classmethod
    def of(cls, workspace: Workspace, tenant: str, namespace: str) -> _View:
        """As the tables are now. Raises: StoreError."""
        import polars as pl

        mine, scan = pl.col("namespace") == namespace, workspace.lake.scan
        return cls(
            captures=scan(tenant, CAPTURES).filter(mine & pl.col("is_pair")),
            verdicts=scan(tenant, VERDICTS).filter(mine),
            labels=scan(tenant, FEEDBACK).filter(mine),
        )

    def index(self) -> pl.LazyFrame:
        """One row a pair: id, time, verdict, confidence, sealed edit. No content is read."""
        return _labelled(
            self.captures.select("pair_id", "created_at_us").unique("pair_id", keep="any"),
            _newest(self.verdicts, "decided_at_us", ("verdict", "confidence")),
            _newest(self.labels, "created_at_us", ("action", "edit")),
        )

    def known(self, span: tuple[str, str], wanted: _Wanted) -> pl.DataFrame:
        """Ids and times of the wanted pairs of some days, in time order."""
        import polars as pl

        first, last = map(pl.lit, span)
        of_days = self.captures.filter(pl.col("date").is_between(first, last))
        known = wanted.of_known(of_days.select("pair_id", "created_at_us"))
        with mapping_errors():
            found = known.unique("pair_id", keep="any").sort("created_at_us", "pair_id")
            return found.collect()

    def judged(self, known: pl.DataFrame, wanted: _Wanted) -> pl.DataFrame:
        """Those of `known` that are wanted, with what verifiers and people said of them."""
        import polars as pl

        ids = known.lazy().select("pair_id")
        first, last = known["pair_id"].min(), known["pair_id"].max()
        among = pl.col("pair_id").is_between(pl.lit(first), pl.lit(last))

        def said(rows: pl.LazyFrame, time: str, columns: tuple[str, ...]) -> pl.LazyFrame:
            of_these = rows.filter(among).select("pair_id", time, *columns)
            return _newest(of_these.join(ids, on="pair_id", how="semi"), time, columns)

        with mapping_errors():
            judged = _labelled(
                known.lazy(),
                said(self.verdicts, "decided_at_us", ("verdict", "confidence")),
                said(self.labels, "created_at_us", ("action", "edit")),
            )
            return wanted.of_judged(judged).sort("created_at_us", "pair_id").collect()

    def content(self, chosen: pl.DataFrame) -> pl.DataFrame:
        """One batch with its sealed content, found by partition, time and id."""
        import polars as pl

        first, last = chosen["created_at_us"].min(), chosen["created_at_us"].max()
        assert isinstance(first, int)  # a batch has rows
        assert isinstance(last, int)
        days = (pl.lit(date_of(first)), pl.lit(date_of(last)))
        with mapping_errors():
            return (
                self.captures.filter(
                    pl.col("date").is_between(*days)
                    & pl.col("created_at_us").is_between(first, last)
                )
                .select(_CONTENT)
                .join(chosen.lazy(), on=["pair_id", "created_at_us"], how="inner")
                .unique("pair_id", keep="any")
                .sort("created_at_us", "pair_id")
                .collect()
            )


def _labelled(known: pl.LazyFrame, verdicts: pl.LazyFrame, labels: pl.LazyFrame) -> pl.LazyFrame:
    """Pairs with the verdict that counts: a person's label before the newest verifier's."""
    import polars as pl

    labelled = (
        pl.when(pl.col("action").is_in(["approve", "edit"]))
        .then(pl.lit("approved"))
        .when(pl.col("action") == "reject")
        .then(pl.lit("rejected"))
        .otherwise(pl.coalesce("verdict", pl.lit("unverified")))
    )
    confidence = pl.when(pl.col("action") == "edit").then(None).otherwise(pl.col("confidence"))
    return (
        known.join(verdicts, on="pair_id", how="left")
        .join(labels, on="pair_id", how="left")
        .with_columns(verdict=labelled, confidence=confidence)
        .select("pair_id", "created_at_us", "verdict", "confidence", "edit")
    )


def _newest(rows: pl.LazyFrame, time: str, columns: tuple[str, ...]) -> pl.LazyFrame:
    """The newest row of each pair; of two at one instant, the one appended last."""
    import polars as pl

    newest = [pl.col(name).sort_by(time, maintain_order=True).last() for name in columns]
    return rows.select("pair_id", time, *columns).group_by("pair_id").agg(newest)


def _pair(workspace: Workspace, tenant: str, namespace: str, row: dict[str, Any]) -> Pair:
    pair_id, vault = row["pair_id"], workspace.vault
    place = {"tenant": tenant, "namespace": namespace, "pair_id": pair_id}
    field, sealed = ("output", row["output"]) if row["edit"] is None else ("edit", row["edit"])
    return Pair(
        pair_id=pair_id,
        tenant=tenant,
        namespace=namespace,
        created_at_us=row["created_at_us"],
        provider=row["provider"],
        model=row["model"],
        input=open_field(vault, row["input"], field="input", **place),
        output=open_field(vault, sealed, field=field, **place),
        latency_us=row["latency_us"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        usage_source=row["usage_source"],
        cost_usd=row["cost_usd"],
        inclusion_probability=row["inclusion_probability"],
        dedup_key=row["dedup_key"],
        verdict=row["verdict"],
        confidence=row["confidence"],
    )
