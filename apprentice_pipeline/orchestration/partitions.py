"""The partitions: a stream is `tenant.namespace`; captures and verdicts are also by day.

Days reach from `FIRST_DAY` to today (UTC). Pairs of any other date (a wrong clock, a wrong import)
have no partition: they are never verified, hence never learnt from, and `outside` names them.
"""

import warnings
from collections.abc import Iterable

import dagster as dg

from apprentice_pipeline.errors import UsageError

STREAMS = dg.DynamicPartitionsDefinition(name="streams")
FIRST_DAY = "2015-01-01"
"""Before any provider had an API whose history could be imported."""
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
STREAM_DAYS = dg.MultiPartitionsDefinition({"day": DAYS, "stream": STREAMS})
with warnings.catch_warnings():  # Dagster calls this mapping beta; it has been there for years
    warnings.simplefilter("ignore", dg.BetaWarning)
    TO_STREAM = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="stream")


def stream_key(tenant: str, namespace: str) -> str:
    """The partition key of a stream. Names hold no dot, so the key splits one way only."""
    return f"{tenant}.{namespace}"


def stream_of(key: str) -> tuple[str, str]:
    """The (tenant, namespace) of a partition key. Raises: UsageError."""
    tenant, dot, namespace = key.partition(".")
    if not (tenant and dot and namespace):
        raise UsageError(
            f"partition {key!r} is not tenant.namespace", remedy="use a key such as default.tickets"
        )
    return tenant, namespace


def stream_day_key(tenant: str, namespace: str, day: str) -> dg.MultiPartitionKey:
    """The two-dimensional key of one day of a stream."""
    return dg.MultiPartitionKey({"day": day, "stream": stream_key(tenant, namespace)})


def outside(days: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Those of (day, pairs) that have no partition: before `FIRST_DAY`, or in the future."""
    return tuple((day, pairs) for day, pairs in days if not DAYS.has_partition_key(day))


def outside_text(days: Iterable[tuple[str, int]]) -> str:
    """What to say of days without a partition, "" where there are none."""
    found = outside(days)
    if not found:
        return ""
    return (
        f"{sum(pairs for _, pairs in found)} pairs dated before {FIRST_DAY} or in the future "
        f"({', '.join(day for day, _ in found[:3])}) are left out of verification and training"
    )
