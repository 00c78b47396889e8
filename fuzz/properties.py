"""What holds for any bytes: each property takes bytes and raises AssertionError where it fails.

Belongs here: properties of the readers that see a provider's or a client's bytes. Does not:
where the bytes come from. The first bytes of an input say how the rest is cut into chunks and
which reader gets it, so that a fuzzer that only knows bytes reaches all of it.

Each property says: nothing is raised but `WireError`; however the bytes are cut, the result is
that of the bytes as a whole; what is made of them is bounded; what passes is unchanged.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import brotli  # type: ignore[import-untyped]
import zstandard

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.gateway.headers import read_headers, response_headers
from apprentice_pipeline.gateway.tee import EventTee, WholeTee
from apprentice_pipeline.reading.calls import ExchangeReader, Passed, Told
from apprentice_pipeline.reading.encodings import decoded, decoder
from apprentice_pipeline.reading.pricing import Pricing
from apprentice_pipeline.store.sealing import canonical
from apprentice_pipeline.wire.providers import PROVIDERS, wire_format
from apprentice_pipeline.wire.sse import Event, EventParser

LIMIT = 20_000
SINGLES = 60
TARGET = "/v1beta/models/m:streamGenerateContent?alt=sse"
REQUEST = (
    b'{"model":"m","messages":[{"role":"user","content":"hello"}],"contents":[],"input":"hello"}'
)
CODINGS = ("", "gzip", "deflate", "br", "zstd", "x-gzip", "identity", "snappy")
READERS = [
    (wire_format(provider), endpoint)
    for provider in PROVIDERS
    for endpoint in wire_format(provider).ENDPOINTS  # type: ignore[attr-defined]
]


REQUESTS = [
    (provider, endpoint, REQUEST)
    for provider in PROVIDERS
    for endpoint in wire_format(provider).ENDPOINTS  # type: ignore[attr-defined]
]
READ = ExchangeReader(Pricing({}), LIMIT)


def _gzip(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return packing.compress(data) + packing.flush()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gzip,
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=1)),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
HOP_BY_HOP = (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")


@dataclass(frozen=True, slots=True)
class Given:
    """An input taken apart: a number that chooses, the payload, and the payload in chunks."""

    choice: int
    payload: bytes
    chunks: tuple[bytes, ...]


def taken_apart(data: bytes) -> Given:
    """The first byte chooses, the second is the number of cuts, a byte each says where."""
    choice, number = (*data[:2], 0, 0)[:2]
    places, payload = data[2 : 2 + number % 9], data[2 + number % 9 :]
    edges = sorted({0, len(payload), *(place * len(payload) // 255 for place in places)})
    return Given(choice, payload, tuple(payload[a:b] for a, b in itertools.pairwise(edges)))


def sse(data: bytes) -> None:
    """Events are the same however the stream is cut, and no larger than it."""
    given = taken_apart(data)
    whole, cut = _events([given.payload]), _events(given.chunks)
    assert cut == whole, "events depend on the chunks"
    assert _events(_singles(given.payload)) == whole, "events depend on the chunks"
    assert sum(len(name) + len(body) for name, body in whole) <= len(given.payload)


def streams(data: bytes) -> None:
    """An answer read from a stream is the same however it is cut, and its end is held back."""
    given = taken_apart(data)
    wire, endpoint = READERS[given.choice % len(READERS)]
    outcomes = []
    for chunks in ((given.payload,), given.chunks, _singles(given.payload)):
        reader, passed, released = wire.stream_reader(endpoint), 0, None
        finder = wire.end_finder(endpoint)
        for chunk in chunks:
            began = reader.feed(chunk)
            found = (finder.feed(chunk), finder.terminal_offset, finder.ended)
            assert found == (began, reader.terminal_offset, reader.ended), "the end lies elsewhere"
            if began and released is None:
                offset = reader.terminal_offset
                assert offset is not None
                assert 0 <= offset <= len(chunk), "the offset lies outside the chunk"
                released = passed + offset
            passed += len(chunk)
        ended = reader.ended
        assert not ended or released is not None, "an end came and was not held back"
        if released is not None:
            early = wire.stream_reader(endpoint)
            early.feed(given.payload[:released])
            assert not early.ended, "what was let through holds the end"
        reader.close()
        outcomes.append((repr(reader.result()), reader.complete, ended, reader.malformed))
    assert outcomes[0] == outcomes[1] == outcomes[2], "the answer depends on the chunks"


def tee(data: bytes) -> None:
    """A stream passes unchanged whatever it is, with what follows it bounded in memory."""
    given = taken_apart(data)
    wire, endpoint = READERS[given.choice % len(READERS)]
    coding = CODINGS[given.choice // len(READERS) % len(CODINGS)]
    followed = EventTee(wire, endpoint, coding, LIMIT)
    sent: list[bytes] = []
    held: list[bytes] = []
    for chunk in given.chunks:
        start = followed.feed(chunk)
        assert start is None or 0 <= start <= len(chunk)
        sent.append(chunk if start is None else chunk[:start])
        if start is None:
            assert not held or followed.unreadable or followed.oversize, "the end was let through"
            held.clear()
        else:
            held.append(chunk[start:])
    followed.closed = True
    if not followed.oversize:
        told = _told(given, followed)
        exchange = told.exchange
        followed._follower.feed(b"\n\n")  # at a clean end a last event needs no blank line
        ended = followed.ended or endpoint == "generateContent"
        assert not exchange.is_pair or (ended and not followed.unreadable and not told.unreadable)
        assert len(repr(exchange.output)) <= 40 * LIMIT


def whole(data: bytes) -> None:
    """A body gathered in chunks reads as the body in one piece; nothing else is raised."""
    given = taken_apart(data)
    coding = CODINGS[given.choice // len(READERS) % len(CODINGS)]
    results = []
    for chunks in ((given.payload,), given.chunks):
        body = WholeTee(coding, LIMIT)
        for chunk in chunks:
            body.feed(chunk)
        body.closed = True
        results.append("oversize" if body.oversize else repr(_told(given, body)))
    assert results[0] == results[1], "the answer depends on the chunks"


def requests(data: bytes) -> None:
    """A request that can be read can be sealed, and asking for usage changes nothing else."""
    given = taken_apart(data)
    wire, endpoint = READERS[given.choice % len(READERS)]
    try:
        request = wire.read_request(endpoint, given.payload, TARGET)
    except WireError:
        return
    canonical(request.input)
    assert isinstance(request.model, str)
    assert isinstance(request.streamed, bool)


def encodings(data: bytes) -> None:
    """Any bytes decompress to the same in any chunks, or are refused, within the bound."""
    given = taken_apart(data)
    coding = CODINGS[given.choice % len(CODINGS)]
    most = (0, 100, LIMIT)[given.choice % 3]
    at_once = _decompressed(coding, most, [given.payload])
    assert at_once is None or len(at_once) <= most or coding in {"", "identity"}
    assert _decompressed(coding, most, given.chunks) == at_once, "the bytes depend on the chunks"
    compress = COMPRESSORS.get(coding)
    if compress is not None and len(given.payload) <= LIMIT:
        packed = b"".join(compress(piece) for piece in _members(coding, given))
        assert decoded(packed, coding, LIMIT) == given.payload, "not what was compressed"
        short = _decompressed(coding, LIMIT, [packed[: len(packed) // 2]])
        assert short is None or given.payload.startswith(short)


def headers(data: bytes) -> None:
    """Headers that pass keep order and bytes; ours and the hop's do not pass."""
    raw = [_header(line) for line in data.replace(b"\r", b"").split(b"\n")]
    found = read_headers(raw)
    passed = found.forward
    for name, value in passed:
        assert name not in HOP_BY_HOP
        assert not name.startswith(b"x-apprentice-")
        assert value in {given for _, given in raw}
    kept = response_headers(raw, (b"x-apprentice-pair-id", b"1"))
    assert kept[-1] == (b"x-apprentice-pair-id", b"1")
    rest = iter(raw)
    for line in kept[:-1]:
        assert line[0] not in HOP_BY_HOP
        assert not line[0].startswith(b"x-apprentice-")
        assert any(line == known for known in rest), "order or value"


PROPERTIES: dict[str, Callable[[bytes], None]] = {
    "sse": sse,
    "streams": streams,
    "tee": tee,
    "whole": whole,
    "requests": requests,
    "encodings": encodings,
    "headers": headers,
}


def _told(given: Given, body: EventTee | WholeTee) -> Told:
    """What the spool's writer makes of an answer to a good request."""
    provider, endpoint, request = REQUESTS[given.choice % len(READERS)]
    passed = Passed(
        pair_id="p",
        tenant="acme",
        namespace="tickets",
        request=request,
        response=body.body(),
        provider=provider,
        endpoint=endpoint,
        target=TARGET,
        created_at_us=1,
        status=200,
        form=body.form,
        ended=body.closed,
        latency_us=1,
        first_byte_us=None,
        inclusion_probability=1.0,
        request_coding="",
        response_coding=body.coding,
    )
    READ(Passed.of(passed.row()).row())  # what it makes a row of can be stored
    return READ.read(passed)


def _singles(payload: bytes) -> tuple[bytes, ...]:
    """Byte by byte, but for what follows the first few."""
    head = payload[:SINGLES]
    return (*(head[i : i + 1] for i in range(len(head))), payload[SINGLES:])


def _events(chunks: tuple[bytes, ...] | list[bytes]) -> list[tuple[bytes, bytes]]:
    parser = EventParser()
    found: list[Event] = []
    for chunk in chunks:
        came = parser.feed(chunk)
        assert all(0 <= event.start <= len(chunk) for event in came)
        found += came
    return [(event.name, event.data) for event in (*found, *parser.close())]


def _decompressed(coding: str, most: int, chunks: tuple[bytes, ...] | list[bytes]) -> bytes | None:
    """None where it is refused."""
    try:
        reading = decoder(coding, most)
        return b"".join([reading.feed(chunk) for chunk in chunks])
    except WireError:
        return None


def _members(coding: str, given: Given) -> Iterator[bytes]:
    """gzip and zstd bodies may be several members one after the other."""
    yield from given.chunks if coding in {"gzip", "zstd"} and given.chunks else (given.payload,)


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return bytes(byte for byte in name.lower() if 32 < byte < 127) or b"x", value.strip()
