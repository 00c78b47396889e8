"""What was captured, joined with what is known of it: pairs, their counts, label rows.

Belongs here: the newest verdict and the newest human label of each pair, opening sealed content
in memory, batch by batch. Does not: deciding which pairs are fit to learn from (`corpus`).
Promises: memory holds one batch of content, whatever the corpus; the order is that of time; one
call sees one snapshot. A person's label outranks every verifier's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from apprentice_pipeline.records import Pair, date_of, now_us, rfc3339
from apprentice_pipeline.store.delta import mapping_errors
from apprentice_pipeline.store.sealing import CAPTURES, FEEDBACK, VERDICTS, open_field

if TYPE_CHECKING:
    import polars as pl

    from apprentice_pipeline.store.workspace import Workspace

VERDICTS_OF_PAIRS: Final = ("unverified", "verified", "quarantined", "approved", "rejected")
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
    batch: int = 2_000,
) -> Iterator[Pair]:
    """The pairs of a namespace in time order, opened in memory.

    `since_us` is included, `until_us` is not; `verdicts` and `ids` keep those named;
    `min_confidence` leaves out pairs that were never resampled.
    Raises: KeyMissing when the tenant's key is gone; CannotOpen, StoreError.
    """
    import polars as pl

    index = _index(workspace, tenant, namespace).sort("created_at_us", "pair_id")
    if since_us is not None:
        index = index.filter(pl.col("created_at_us") >= since_us)
    if until_us is not None:
        index = index.filter(pl.col("created_at_us") < until_us)
    if verdicts is not None:
        index = index.filter(pl.col("verdict").is_in(list(verdicts)))
    if ids is not None:
        index = index.filter(pl.col("pair_id").is_in(list(ids)))
    if min_confidence is not None:
        index = index.filter(pl.col("confidence") >= min_confidence)
    if limit is not None:
        index = index.head(limit)
    with mapping_errors():
        chosen = index.collect()
    captures = workspace.lake.scan(tenant, CAPTURES)
    for start in range(0, chosen.height, batch):
        yield from _opened(workspace, tenant, namespace, captures, chosen.slice(start, batch))


def pair_counts(
    workspace: Workspace, tenant: str, namespace: str, *, at_us: int | None = None
) -> PairCounts:
    """Counts by newest verdict, without opening anything. Raises: StoreError."""
    import polars as pl

    at_us = now_us() if at_us is None else at_us
    since = at_us - _RECENT_DAYS * _DAY_US
    with mapping_errors():
        by_verdict = (
            _index(workspace, tenant, namespace)
            .group_by("verdict")
            .agg(
                pl.len().alias("pairs"),
                pl.col("created_at_us").min().alias("first"),
                pl.col("created_at_us").max().alias("last"),
                (pl.col("created_at_us") >= since).sum().alias("recent"),
            )
            .collect()
            .rows(named=True)
        )
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
) -> Iterator[dict[str, Any]]:
    """The rows of `labels`, as the contract names their fields, in time order.

    Raises: KeyMissing when the tenant's key is gone; CannotOpen, StoreError.
    """
    for pair in pairs(
        workspace,
        tenant,
        namespace,
        since_us=since_us,
        until_us=until_us,
        min_confidence=min_confidence,
        limit=limit,
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


def _index(workspace: Workspace, tenant: str, namespace: str) -> pl.LazyFrame:
    """One row a pair: id, time, verdict, confidence, sealed edit. No content is read."""
    import polars as pl

    in_namespace = pl.col("namespace") == namespace
    known = (
        workspace.lake.scan(tenant, CAPTURES)
        .filter(in_namespace & pl.col("is_pair"))
        .select("pair_id", "created_at_us")
        .unique("pair_id", keep="any")
    )
    verdicts = _newest(
        workspace.lake.scan(tenant, VERDICTS).filter(in_namespace),
        "decided_at_us",
        ("verdict", "confidence"),
    )
    labels = _newest(
        workspace.lake.scan(tenant, FEEDBACK).filter(in_namespace),
        "created_at_us",
        ("action", "edit"),
    )
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


def _opened(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    captures: pl.LazyFrame,
    chosen: pl.DataFrame,
) -> Iterator[Pair]:
    """One batch: its rows found by partition, time and id, and opened."""
    import polars as pl

    first, last = chosen["created_at_us"].min(), chosen["created_at_us"].max()
    assert isinstance(first, int)  # a batch has rows
    assert isinstance(last, int)
    with mapping_errors():
        rows = (
            captures.filter(
                (pl.col("namespace") == namespace)
                & pl.col("date").is_between(pl.lit(date_of(first)), pl.lit(date_of(last)))
                & pl.col("created_at_us").is_between(first, last)
                & pl.col("is_pair")
            )
            .select(_CONTENT)
            .join(chosen.lazy(), on=["pair_id", "created_at_us"], how="inner")
            .unique("pair_id", keep="any")
            .sort("created_at_us", "pair_id")
            .collect()
        )
    for row in rows.iter_rows(named=True):
        yield _pair(workspace, tenant, namespace, row)


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
