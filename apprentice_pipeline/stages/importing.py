"""Bringing history in: calls that another system logged, as if they had been captured.

Gather (a file, streamed) → decide (`wire.imports`) → append. Two passes over the file: the first
only reads, so that a file with a malformed record is refused before anything is appended; the
second appends, in batches. A crash between two batches leaves an import that is simply repeated.

Idempotent: a pair's id is a keyed digest of the source's own id of the call, its time and its
content; where a source has no ids, calls that are equal in all of it are told apart by counting
them within the file. So the same file, or a longer one that begins with it, adds only what is
new, and two equal calls in one file are two pairs. A pair that was erased stays erased.
Memory holds one batch, and eight bytes a record.
"""

from __future__ import annotations

import fcntl
import gzip
import uuid
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from apprentice_pipeline.errors import StoreError, TrafficError, WireError
from apprentice_pipeline.records import Exchange, now_us
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.imported import ImportedIds
from apprentice_pipeline.store.sealing import canonical
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.wire.imports import documents, openai_logs, sources
from apprentice_pipeline.wire.imports.calls import PastCall
from apprentice_pipeline.wire.redaction import redactor

BATCH = 5_000
BATCH_BYTES = 32 * 1024 * 1024
CHUNK = 1 << 20
REPORTED = 10


@dataclass(frozen=True, slots=True)
class Imported:
    """Calls that became pairs, were there already, or had been erased; records that hold no pair
    (`passed`) or were skipped as malformed."""

    imported: int = 0
    known: int = 0
    skipped: int = 0
    passed: int = 0
    erased: int = 0

    def to_dict(self) -> dict[str, int]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Request:
    """What to import: `requests` is the input file of an OpenAI batch whose output `file` is."""

    file: Path
    tenant: str
    namespace: str
    source: str = "jsonl"
    skip_bad: bool = False
    requests: Path | None = None


def import_file(workspace: Workspace, request: Request) -> Imported:
    """Imports every call of the file.

    Raises: TrafficError naming the first malformed records by number (nothing is imported then),
    unless `skip_bad`, which skips and counts them; UsageError for an unknown source; StoreError.
    """
    with _alone(workspace, request):
        found = _looked_through(workspace, request)
        if found.bad and not request.skip_bad:
            raise _refusal(request, found)
        return _Appending(workspace, request, found).run()


@dataclass(slots=True)
class _Found:
    """What the first pass saw: malformed records, and which identities occur more than once."""

    form: str
    stamp: tuple[int, int]
    bad: int = 0
    first_bad: list[int] = field(default_factory=list)
    passed: int = 0
    repeated: set[int] = field(default_factory=set)


def _looked_through(workspace: Workspace, request: Request) -> _Found:
    found = _Found(_form(request.file), _stamp(request.file))
    identities = array("Q")
    for number, calls in _calls(request, found.form):
        if calls is None:
            found.bad += 1
            found.first_bad += [number] if len(found.first_bad) < REPORTED else []
            continue
        found.passed += not calls
        identities.extend(
            _short(_identity(workspace, request, call)) for call in calls if not call.record_id
        )
    found.repeated = _repeated(identities)
    return found


class _Appending:
    """The second pass: batches of what is not there yet."""

    def __init__(self, workspace: Workspace, request: Request, found: _Found) -> None:
        self._workspace = workspace
        self._request = request
        self._found = found
        self._there = ImportedIds.of_stream(workspace, request.tenant, request.namespace)
        self._erased = {
            stone.pair_id
            for stone in workspace.state.tombstones(request.tenant, request.namespace)
            if stone.pair_id
        }
        self._seen: dict[int, int] = {}
        self._batch: dict[str, PastCall] = {}
        self._bytes = 0
        self._imported = self._known = self._gone = 0

    def run(self) -> Imported:
        """All of it."""
        for _, calls in _calls(self._request, self._found.form):
            for call in calls or ():
                self._take(call)
        self._flush()
        if _stamp(self._request.file) != self._found.stamp:
            raise TrafficError(
                f"{self._request.file.name} changed while it was read",
                remedy="import it again once it is complete: what is in already is not doubled",
            )
        found = self._found
        return Imported(self._imported, self._known, found.bad, found.passed, self._gone)

    def _take(self, call: PastCall) -> None:
        identity = _identity(self._workspace, self._request, call)
        pair_id = str(uuid.UUID(bytes=self._counted(identity, call)[:16], version=5))
        if pair_id in self._erased:
            self._gone += 1
        elif pair_id in self._batch:
            self._known += 1
        else:
            self._batch[pair_id] = call
            self._bytes += len(canonical([call.input, call.output]))
        if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
            self._flush()

    def _counted(self, identity: bytes, call: PastCall) -> bytes:
        """The identity, with which one it is of those in the file that are equal to it."""
        short = _short(identity)
        if call.record_id or short not in self._found.repeated:
            return identity
        number = self._seen[short] = self._seen.get(short, -1) + 1
        if number == 0:
            return identity
        return self._workspace.vault.fingerprint(
            self._request.tenant, "import/repeated", identity + number.to_bytes(8, "big")
        )

    def _flush(self) -> None:
        there = self._there.known(list(self._batch))
        redact = redactor(self._workspace.config.capture)
        fresh = [
            redact.redacted(_exchange(self._request, pair_id, call))
            for pair_id, call in self._batch.items()
            if pair_id not in there
        ]
        if fresh:
            append_records(self._workspace, self._request.tenant, fresh)
            self._there.add([exchange.pair_id for exchange in fresh])
        self._imported += len(fresh)
        self._known += len(self._batch) - len(fresh)
        self._batch, self._bytes = {}, 0


def _calls(request: Request, form: str) -> Iterator[tuple[int, list[PastCall] | None]]:
    """Every record's number and calls; None where it is malformed."""
    read = sources.reader(request.source)
    asked = _BatchInput(request.requests) if request.requests else None
    with _opened(request.file) as handle:
        for number, record in documents.records(form, _chunks(handle)):
            try:
                whole = record if asked is None or record is None else asked.joined(record)
                calls = None if whole is None else read(whole)
                for call in calls or ():
                    canonical([call.input, call.output])
            except (WireError, StoreError):  # not the source's shape, or not to be stored
                calls = None
            yield number, calls


class _BatchInput:
    """The lines of a batch's input file by their `custom_id`, read when asked for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places: dict[str, int] = {}
        at = 0
        with open(file, "rb") as handle:
            for line in handle:
                for _, record in documents.records("lines", [line]):
                    if record is not None and isinstance(record.get("custom_id"), str):
                        self._places[record["custom_id"]] = at
                at += len(line)

    def joined(self, answered: dict[str, Any]) -> dict[str, Any]:
        """A line of the output with the request that it answers. Raises: WireError."""
        place = self._places.get(str(answered.get("custom_id")))
        if place is None:
            raise WireError("the batch's input file has no such custom_id")
        with open(self._file, "rb") as handle:
            handle.seek(place)
            (_, record), *_ = documents.records("lines", [handle.readline()])
        return openai_logs.joined(record or {}, answered)


def _identity(workspace: Workspace, request: Request, call: PastCall) -> bytes:
    content = canonical([call.record_id, call.created_at_us, call.input, call.output])
    return workspace.vault.fingerprint(request.tenant, f"import/{request.namespace}", content)


def _short(identity: bytes) -> int:
    return int.from_bytes(identity[:8], "big")


def _repeated(identities: array[int]) -> set[int]:
    import numpy as np

    if not identities:
        return set()
    found, counts = np.unique(np.frombuffer(identities, dtype=np.uint64), return_counts=True)
    return set(found[counts > 1].tolist())


def _exchange(request: Request, pair_id: str, call: PastCall) -> Exchange:
    return Exchange(
        pair_id=pair_id,
        tenant=request.tenant,
        namespace=request.namespace,
        created_at_us=now_us() if call.created_at_us is None else call.created_at_us,
        provider=call.provider,
        endpoint=call.endpoint,
        model=call.model,
        status=200,
        complete=True,
        streamed=call.streamed,
        served_by="remote",
        input=call.input,
        output=call.output,
        latency_us=call.latency_us,
        first_byte_us=call.first_byte_us,
        usage=call.usage,
        cost_usd=call.cost_usd,
        inclusion_probability=call.inclusion_probability,
        origin="import",
    )


def _refusal(request: Request, found: _Found) -> TrafficError:
    numbers: Sequence[int] = found.first_bad
    shown = ", ".join(map(str, numbers)) + (", …" if found.bad > len(numbers) else "")
    noun = "lines" if found.form == "lines" else "records"
    return TrafficError(
        f"{request.file.name}: {found.bad} malformed {noun}: {shown}",
        remedy=f"{sources.expected(request.source)}; or skip them with --skip-bad",
    )


@contextmanager
def _alone(workspace: Workspace, request: Request) -> Iterator[None]:
    """Two imports into one namespace at once would each take the other's calls for new."""
    name = f"import-{request.tenant}.{request.namespace}.lock"
    workspace.home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(workspace.home.run / name, "wb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrafficError(
                f"another import into {request.tenant}.{request.namespace} is under way",
                remedy="wait for it to end, then import again",
            ) from None
        yield


def _form(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix != ".gz"]
    with _opened(file) as handle:
        head = next(_chunks(handle), b"")
    return documents.form_of(suffixes[-1] if suffixes else "", head)


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _chunks(handle: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := handle.read(CHUNK):
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise TrafficError(
            "the compressed file is damaged or cut short", remedy="fetch it again"
        ) from None


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
