"""Bringing history in: pairs from files, as if they had been captured.

Idempotent: a line's pair id is derived from its content under the tenant's key, so that the same
line is the same pair however often it is imported.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from apprentice_pipeline.errors import TrafficError
from apprentice_pipeline.records import Exchange, Usage, now_us
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.workspace import Workspace

BATCH = 1_000
REPORTED = 10


@dataclass(frozen=True, slots=True)
class Imported:
    """Lines that became pairs, were there already, or were skipped as malformed."""

    imported: int
    known: int
    skipped: int

    def to_dict(self) -> dict[str, int]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Line:
    """What one line says, in the normal form of a pair."""

    input: dict[str, Any]
    output: Any
    provider: str
    model: str


def import_file(
    workspace: Workspace,
    file: Path,
    *,
    tenant: str,
    namespace: str,
    source: str,
    skip_bad: bool,
) -> Imported:
    """Imports every line of `file`; `source` is `jsonl` or `openai`.

    Raises: TrafficError naming the first malformed lines (nothing is imported then), unless
    `skip_bad`, which skips and counts them.
    """
    bad = [number for number, line in _read(file, source) if line is None]
    if bad and not skip_bad:
        shown = ", ".join(map(str, bad[:REPORTED])) + (", …" if len(bad) > REPORTED else "")
        raise TrafficError(
            f"{file.name}: {len(bad)} malformed lines: {shown}",
            remedy=f"{_EXPECTED[source]}; or skip them with --skip-bad",
        )
    imported = known = 0
    batch: dict[str, Exchange] = {}
    for _, line in _read(file, source):
        if line is None:
            continue
        exchange = _exchange(workspace, tenant, namespace, line)
        if exchange.pair_id in batch:
            known += 1
            continue
        batch[exchange.pair_id] = exchange
        if len(batch) >= BATCH:
            fresh = _append_new(workspace, tenant, namespace, batch)
            imported, known, batch = imported + fresh, known + len(batch) - fresh, {}
    fresh = _append_new(workspace, tenant, namespace, batch)
    return Imported(imported + fresh, known + len(batch) - fresh, len(bad))


def _append_new(
    workspace: Workspace, tenant: str, namespace: str, batch: Mapping[str, Exchange]
) -> int:
    if not batch:
        return 0
    rows = workspace.lake.sql(
        tenant,
        "select pair_id from captures "
        "where namespace = $namespace and list_contains($ids, pair_id)",
        namespace=namespace,
        ids=list(batch),
    )
    there = {row["pair_id"] for row in rows}
    fresh = [exchange for pair_id, exchange in batch.items() if pair_id not in there]
    append_records(workspace, tenant, fresh)
    return len(fresh)


def _exchange(workspace: Workspace, tenant: str, namespace: str, line: Line) -> Exchange:
    content = orjson.dumps([line.input, line.output], option=orjson.OPT_SORT_KEYS)
    digest = workspace.vault.fingerprint(tenant, f"import/{namespace}", content)
    return Exchange(
        pair_id=str(uuid.UUID(bytes=digest[:16], version=5)),
        tenant=tenant,
        namespace=namespace,
        created_at_us=now_us(),
        provider=line.provider,
        endpoint="messages" if line.provider == "anthropic" else "chat.completions",
        model=line.model,
        status=200,
        complete=True,
        streamed=False,
        served_by="remote",
        input=line.input,
        output=line.output,
        latency_us=0,
        first_byte_us=None,
        usage=Usage(),
        cost_usd=None,
        origin="import",
    )


def _read(file: Path, source: str) -> Iterator[tuple[int, Line | None]]:
    """Every line with its number; None where it is malformed."""
    reader = _READERS[source]
    with open(file, "rb") as handle:
        for number, raw in enumerate(handle, 1):
            text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
            if not text:
                continue
            try:
                value = orjson.loads(text)
                yield number, reader(value) if isinstance(value, dict) else None
            except (ValueError, KeyError, TypeError):
                yield number, None


def _plain_line(value: dict[str, Any]) -> Line | None:
    """`{"input": {"messages": …}, "output": …}` (a label row) or `{"prompt", "completion"}`."""
    if "prompt" in value and "completion" in value:
        prompt, completion = value["prompt"], value["completion"]
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            return None
        messages = [{"role": "user", "content": prompt}]
        return _line(value, messages, {}, completion)
    given = value["input"]
    return _line(value, given["messages"], given.get("parameters") or {}, value["output"])


def _openai_line(value: dict[str, Any]) -> Line | None:
    """`{"messages": [… , {"role": "assistant", …}]}`: OpenAI's fine-tuning format."""
    *messages, last = value["messages"]
    if last["role"] != "assistant":
        return None
    return _line(value, messages, {}, last["content"])


def _line(
    value: dict[str, Any], messages: Any, parameters: dict[str, Any], output: Any
) -> Line | None:
    sound = isinstance(messages, list) and messages and isinstance(parameters, dict)
    if not sound or not output or not isinstance(output, str | dict | list):
        return None
    if any(not isinstance(m, dict) or "role" not in m for m in messages):
        return None
    return Line(
        input={"messages": messages, "parameters": parameters},
        output=output,
        provider=str(value.get("provider", "openai")),
        model=str(value.get("model", "unknown")),
    )


_READERS: dict[str, Callable[[dict[str, Any]], Line | None]] = {
    "jsonl": _plain_line,
    "openai": _openai_line,
}
_EXPECTED = {
    "jsonl": 'each line is {"input": {"messages": […]}, "output": …} or {"prompt", "completion"}',
    "openai": 'each line is {"messages": […, {"role": "assistant", "content": …}]}',
}
