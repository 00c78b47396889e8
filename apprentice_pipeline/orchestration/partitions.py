"""The partitions: a stream is `tenant.namespace`; captures and verdicts are also by day."""

import warnings

import dagster as dg

from apprentice_pipeline.errors import UsageError

STREAMS = dg.DynamicPartitionsDefinition(name="streams")
DAYS = dg.DailyPartitionsDefinition(start_date="2024-01-01", end_offset=1)
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
