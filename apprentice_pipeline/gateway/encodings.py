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


class Decoder(Protocol):
    """Decompresses piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """What `data` adds. Raises: WireError when it is not in the coding, or expands too far."""
        ...


class _Plain:
    def feed(self, data: bytes) -> bytes:
        return data


class _Zlib:
    def __init__(self, most: int, window_bits: int) -> None:
        self._left = most
        self._bits = window_bits
        self._inner = zlib.decompressobj(window_bits)

    def feed(self, data: bytes) -> bytes:
        try:
            plain = self._inner.decompress(data, self._left + 1)
        except zlib.error:
            raise WireError("the body does not decompress") from None
        self._left -= len(plain)
        if self._left < 0:
            raise WireError("the body expands beyond what is captured")
        return plain


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
        self._inner = zstandard.ZstdDecompressor().decompressobj(write_size=PIECE)

    def feed(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        for start in range(0, len(data), 1024):  # bounds what one step can expand to
            try:
                piece = self._inner.decompress(data[start : start + 1024])
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
        return _Zlib(most, zlib.MAX_WBITS | 16)
    if name == "deflate":
        return _Zlib(most, zlib.MAX_WBITS)
    if name == "br":
        return _Brotli(most)
    if name == "zstd":
        return _Zstandard(most)
    raise WireError("the body's content coding is not known")


def decoded(data: bytes, coding: str, most: int) -> bytes:
    """A whole body, decompressed. Raises: WireError."""
    return data if not coding else decoder(coding, most).feed(data)
