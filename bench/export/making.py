"""Lakes to measure on, made fast: sealed pairs as the drain would have left them, or facts alone.

Belongs here: rows and how they are spread over time. Does not: measuring.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.progress import Progress

from apprentice_pipeline.records import (
    Exchange,
    Usage,
    Verdict,
    captures_schema,
    date_of,
    new_pair_id,
    now_us,
    verdicts_schema,
)
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.sealing import CAPTURES, VERDICTS
from apprentice_pipeline.store.workspace import Workspace

TENANT: Final = "default"
NAMESPACE: Final = "bench"
DAY_US: Final = 86_400_000_000
DRAIN: Final = 5_000
"""Rows a drain appends at once."""
VERIFIED_SHARE: Final = 0.8
_WORDS: Final = 1_500


def opened(home: Path) -> Workspace:
    """The workspace of a home without a configuration file."""
    return Workspace.open(load_settings({"APPRENTICE_HOME": str(home)}))


def sealed_pairs(home: Path, pairs: int, days: int, progress: Callable[[int], None]) -> int:
    """Fills a home with pairs and verdicts of four in five; returns the bytes of their content."""
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(_WORDS)]
    start, size = now_us() - days * DAY_US, 0
    workspace = opened(home)
    for first in range(0, pairs, DRAIN):
        numbers = range(first, min(first + DRAIN, pairs))
        batch = [_exchange(draw, words, start + n * days * DAY_US // pairs) for n in numbers]
        size += sum(len(each.input["messages"][1]["content"]) + len(each.output) for each in batch)
        judged = [_verdict(each) for each in batch if draw.random() < VERIFIED_SHARE]
        append_records(workspace, TENANT, [*batch, *judged])
        progress(len(batch))
    workspace.close()
    return size


def sealed_pairs_shown(home: Path, pairs: int, days: int) -> None:
    """As `sealed_pairs`, with a bar on standard error."""
    console = Console(stderr=True)
    with Progress(console=console) as bar:
        task = bar.add_task("making the lake", total=pairs)
        size = sealed_pairs(home, pairs, days, lambda made: bar.advance(task, made))
    console.print(f"{pairs:,} pairs, {size / 1e9:.2f} GB of text")


def facts_alone(home: Path, pairs: int, days: int, progress: Callable[[int], None]) -> None:
    """Fills a home with pairs whose sealed content is one byte: for counting, not for reading."""
    workspace = opened(home)
    step = 100_000
    start = now_us() - days * DAY_US
    for first in range(0, pairs, step):
        count = min(step, pairs - first)
        times = [start + (first + n) * days * DAY_US // pairs for n in range(count)]
        for captures, verdicts in _fact_rows(times):
            workspace.lake.append(TENANT, CAPTURES, captures)
            workspace.lake.append(TENANT, VERDICTS, verdicts)
        progress(count)
    workspace.close()


def _exchange(draw: random.Random, words: list[str], at_us: int) -> Exchange:
    asked = " ".join(draw.choices(words, k=180))
    return Exchange(
        pair_id=new_pair_id(at_us),
        tenant=TENANT,
        namespace=NAMESPACE,
        created_at_us=at_us,
        provider="openai",
        endpoint="chat.completions",
        model="gpt-4o",
        status=200,
        complete=True,
        streamed=False,
        served_by="remote",
        input={
            "messages": [
                {"role": "system", "content": "Classify the request."},
                {"role": "user", "content": asked},
            ],
            "parameters": {"temperature": 0},
        },
        output=" ".join(draw.choices(words, k=50)),
        latency_us=800_000,
        first_byte_us=None,
        usage=Usage(300, 80, None, None, "provider"),
        cost_usd=0.001,
    )


def _verdict(exchange: Exchange) -> Verdict:
    at_us = exchange.created_at_us + 60_000_000
    return Verdict(
        exchange.pair_id, NAMESPACE, at_us, "structural", "verified", None, 0, "structure"
    )


def _fact_rows(times: list[int]) -> Iterator[tuple[Any, Any]]:
    """Arrow tables of captures and of four in five verdicts, one pair of tables."""
    import pyarrow as pa

    ids = [_pair_id(at_us) for at_us in times]
    dates = [date_of(at_us) for at_us in times]
    count = len(times)
    columns: dict[str, Any] = {
        "pair_id": ids,
        "date": dates,
        "created_at_us": times,
        "dedup_key": [os.urandom(32) for _ in times],
    }
    constants = {
        "namespace": NAMESPACE, "provider": "openai", "endpoint": "chat.completions",
        "model": "gpt-4o", "status": 200, "complete": True, "streamed": False, "is_pair": True,
        "served_by": "remote", "origin": "gateway", "input": b"-", "output": b"-",
        "latency_us": 800_000, "first_byte_us": None, "input_tokens": 300, "output_tokens": 80,
        "cached_tokens": None, "cache_write_tokens": None, "usage_source": "provider",
        "cost_usd": 0.001, "inclusion_probability": 1.0, "finish_reason": "stop",
        "ending": "whole",
    }  # fmt: skip
    captures = _table(captures_schema(), columns, constants, count)
    kept = [n for n in range(count) if n % 5]
    judged = {
        "pair_id": [ids[n] for n in kept],
        "date": [dates[n] for n in kept],
        "decided_at_us": [times[n] + 1 for n in kept],
    }
    said = {
        "namespace": NAMESPACE, "verifier": "structural", "verdict": "verified",
        "confidence": None, "resamples": 0, "reason": "structure",
    }  # fmt: skip
    yield captures, _table(verdicts_schema(), judged, said, len(kept))
    del pa


def _table(schema: Any, columns: dict[str, Any], constants: dict[str, Any], count: int) -> Any:
    import pyarrow as pa

    arrays = [
        pa.array(columns[field.name], type=field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(constants[field.name], type=field.type), count)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _pair_id(at_us: int) -> str:
    value = (at_us // 1_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return str(UUID(int=value & ~(0xF << 76) | 0x7 << 76))
