"""The properties of `fuzz/` hold for their seeds and for what hypothesis makes of them."""

from __future__ import annotations

import tempfile
import zlib
from functools import cache
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.reading.calls import Passed
from apprentice_pipeline.reading.encodings import MOST_MEMBERS, decoded, decoder
from fuzz import properties, seeds

TARGETS = sorted(properties.PROPERTIES)
BOMB = 200_000_000


@cache
def seeds_of(target: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        assert seeds.write_seeds(target, Path(folder)) > 0
        return [file.read_bytes() for file in sorted(Path(folder).iterdir())]


@pytest.mark.parametrize("target", TARGETS)
def test_a_property_holds_for_its_seeds(target: str) -> None:
    for seed in seeds_of(target):
        properties.PROPERTIES[target](seed)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_property_holds_for_bytes_cut_out_of_its_seeds_and_put_together(
    target: str, data: st.DataObject
) -> None:
    known = seeds_of(target)
    made = data.draw(st.binary(min_size=2, max_size=10))
    for _ in range(data.draw(st.integers(1, 3))):
        source = data.draw(st.sampled_from(known))
        start = data.draw(st.integers(0, len(source)))
        made += source[start : data.draw(st.integers(start, len(source)))]
        made += data.draw(st.binary(max_size=6))
    properties.PROPERTIES[target](made)


def gzip_bomb() -> bytes:
    packing = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    piece = bytes(1_000_000)
    packed = b"".join(packing.compress(piece) for _ in range(BOMB // len(piece)))
    return packed + packing.flush()


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_has_expanded(coding: str) -> None:
    """Memory: the process's peak grows by a small part of what the bomb would be."""
    import resource

    bomb = gzip_bomb() if coding == "gzip" else zstandard.ZstdCompressor().compress(bytes(BOMB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WireError, match="expands"):
        decoded(bomb, coding, 1_000_000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < BOMB / 4


def test_a_zstd_frame_that_wants_a_huge_window_is_refused() -> None:
    """RFC 9659 allows 8 MB; a frame's head alone would otherwise allocate what it asks for."""
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    frame = stream.compress(b"x" * 100) + stream.flush()
    with pytest.raises(WireError, match="does not decompress"):
        decoded(frame, "zstd", 1_000_000)


def test_gzip_members_are_one_body_and_not_without_end() -> None:
    member = properties.COMPRESSORS["gzip"](b"ab")
    assert decoded(member * 3, "gzip", 100) == b"ababab"
    with pytest.raises(WireError, match="too many members"):
        decoded(member * (MOST_MEMBERS + 1), "gzip", 100_000)


def test_deflate_is_read_with_its_wrapper_and_without() -> None:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    raw = packing.compress(b"hello" * 9) + packing.flush()
    assert decoded(raw, "deflate", 100) == decoded(zlib.compress(b"hello" * 9), "deflate", 100)
    reading = decoder("deflate", 100)
    assert b"".join(reading.feed(raw[i : i + 1]) for i in range(len(raw))) == b"hello" * 9


def test_a_stream_that_only_ends_is_no_complete_answer() -> None:
    """Found by fuzzing: an end of the right name, whose data says otherwise, after no start."""
    passed = Passed(
        pair_id="p",
        tenant="acme",
        namespace="tickets",
        request=properties.REQUEST,
        response=b'event: message_stop\ndata: {"type":"ping"}\n\n',
        provider="anthropic",
        endpoint="messages",
        target="/v1/messages",
        created_at_us=1,
        status=200,
        form="events",
        ended=True,
        latency_us=1,
        first_byte_us=None,
        inclusion_probability=1.0,
        request_coding="",
        response_coding="",
    )
    told = properties.READ.read(passed)
    assert (told.exchange.output, told.exchange.complete, told.unreadable) == (None, False, 1)


def test_blanks_before_a_stream_belong_to_its_first_line_however_they_are_cut() -> None:
    """Found by fuzzing: a chunk of blanks was dropped, one that went on behind them was not."""
    gemini = next(
        at for at, (_, name) in enumerate(properties.READERS) if name == "generateContent"
    )
    for blanks in (b"\n\x0b", b" ", b"\t\n "):
        properties.streams(bytes([gemini, 0]) + blanks + b'data: {"candidates":[{bad')


def test_an_answer_whose_last_event_lacks_its_blank_line_is_a_pair() -> None:
    """Found by fuzzing: the property took it for none."""
    events = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop","index":0}]}\n\n'
    properties.tee(bytes([0, 0]) + events + b"data: [DONE]")
