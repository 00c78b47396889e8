"""Server-sent events are the same events however the bytes are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.wire.sse import Event, EventParser, encode

LINES = st.sampled_from(
    ["data: a", "data:b", "data", "data: é😀", "event: x", "event:y", ": note", "id: 7", "", "junk"]
)
ENDINGS = st.sampled_from(["\n", "\r\n", "\r"])


def parse(stream: bytes, cuts: list[int]) -> list[tuple[bytes, bytes]]:
    parser = EventParser()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    events: list[Event] = []
    for start, end in itertools.pairwise(edges):
        events += parser.feed(stream[start:end])
    events += parser.close()
    return [(event.name, event.data) for event in events]


@given(
    st.lists(st.tuples(LINES, ENDINGS), max_size=20), st.lists(st.integers(min_value=0), max_size=8)
)
def test_any_chunking_gives_the_same_events(lines: list[tuple[str, str]], cuts: list[int]) -> None:
    stream = "".join(line + ending for line, ending in lines).encode()
    assert parse(stream, cuts) == parse(stream, []) == parse(stream, list(range(len(stream))))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_junk_is_never_an_error(chunks: list[bytes]) -> None:
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)
    parser.close()


def test_multi_line_data_is_joined_and_comments_are_skipped() -> None:
    stream = b"\xef\xbb\xbfevent: m\r\n: hush\r\ndata: 1\r\ndata: 2\r\n\r\n"
    assert parse(stream, [3, 12, 13]) == [(b"m", b"1\n2")]


def test_an_event_without_data_is_no_event() -> None:
    assert parse(b"event: x\n\ndata: y\n\n", []) == [(b"", b"y")]


def test_start_is_where_the_event_begins_in_the_chunk() -> None:
    parser = EventParser()
    first = b"data: a\n\n"
    events = parser.feed(first + b"data: b\n\ndata: c")
    assert [event.start for event in events] == [0, len(first)]
    assert parser.feed(b"d\n\n") == [Event(b"", b"cd", 0)]


def test_what_is_encoded_reads_back() -> None:
    assert parse(encode(b"{}", "ping"), [4]) == [(b"ping", b"{}")]
