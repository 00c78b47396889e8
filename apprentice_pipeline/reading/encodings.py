"""Reading compressed bodies: a copy is decompressed for the capture, the bytes pass as they are.

Belongs here: content codings, with a bound on what they expand to. Does not: HTTP.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

from apprentice_pipeline.errors import WireError

PIECE = 1 << 16
STEP = 256
"""Compressed bytes a step of zstd: they expand to 8 MB at most, whatever they say."""
WINDOW = 1 << 23
"""The largest window of the zstd coding (RFC 9659)."""
MOST_MEMBERS = 1_000


class Decoder(Protocol):
    """Decompresses piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """What `data` adds. Raises: WireError when it is not in the coding, or expands too far."""
        ...


class _Plain:
    def feed(self, data: bytes) -> bytes:
        return data


class _Zlib:
    """One zlib or raw stream, or the members of a gzip body one after the other (RFC 1952)."""

    def __init__(self, most: int, window_bits: int, members: int = 1) -> None:
        self._left = most
        self._bits = window_bits
        self._members = members
        self._inner = zlib.decompressobj(window_bits)

    def feed(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        for start in range(0, len(data), PIECE):  # bounds what a member's end copies
            rest = data[start : start + PIECE]
            while rest and self._open():
                pieces.append(self._step(rest))
                rest = self._inner.unused_data
        return b"".join(pieces)

    def _step(self, data: bytes) -> bytes:
        try:
            plain = self._inner.decompress(data, self._left + 1)
        except zlib.error:
            raise WireError("the body does not decompress") from None
        self._left -= len(plain)
        if self._left < 0:
            raise WireError("the body expands beyond what is captured")
        return plain

    def _open(self) -> bool:
        """Whether there is a member to read; False past the last, where the rest is ignored."""
        if not self._inner.eof:
            return True
        if self._members == 1:
            return False
        self._members -= 1
        if self._members == 1:
            raise WireError("the body has too many members")
        self._inner = zlib.decompressobj(self._bits)
        return True


class _Deflate:
    """The coding `deflate`: a zlib stream by RFC 9110, a raw one by widespread custom."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._head = b""
        self._inner: _Zlib | None = None

    def feed(self, data: bytes) -> bytes:
        if self._inner is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            wrapped = self._head[0] & 0x8F == 8 and int.from_bytes(self._head[:2], "big") % 31 == 0
            self._inner = _Zlib(self._most, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            data, self._head = self._head, b""
        return self._inner.feed(data)


class _Brotli:
    def __init__(self, most: int) -> None:
        self._left = most
        self._inner = brotli.Decompressor()

    def feed(self, data: bytes) -> bytes:
        try:
            plain: bytes = self._inner.process(data, output_buffer_limit=self._left + 1)
        except brotli.error:
            raise WireError("the body does not decompress") from None
        self._left -= len(plain)
        if self._left < 0:
            raise WireError("the body expands beyond what is captured")
        return plain


class _Zstandard:
    def __init__(self, most: int) -> None:
        self._left = most
        self._inner = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj(
            write_size=PIECE, read_across_frames=True
        )

    def feed(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        for start in range(0, len(data), STEP):
            try:
                piece = self._inner.decompress(data[start : start + STEP])
            except zstandard.ZstdError:
                raise WireError("the body does not decompress") from None
            self._left -= len(piece)
            if self._left < 0:
                raise WireError("the body expands beyond what is captured")
            pieces.append(piece)
        return b"".join(pieces)


def decoder(coding: str, most: int) -> Decoder:
    """A decoder of a Content-Encoding that yields at most `most` bytes.

    Raises: WireError for a coding that is not known.
    """
    name = coding.strip().lower()
    if name in {"", "identity"}:
        return _Plain()
    if name in {"gzip", "x-gzip"}:
        return _Zlib(most, zlib.MAX_WBITS | 16, MOST_MEMBERS)
    if name == "deflate":
        return _Deflate(most)
    if name == "br":
        return _Brotli(most)
    if name == "zstd":
        return _Zstandard(most)
    raise WireError("the body's content coding is not known")


def decoded(data: bytes, coding: str, most: int) -> bytes:
    """A whole body, decompressed. Raises: WireError."""
    return data if not coding else decoder(coding, most).feed(data)
