"""Requests of two readings: a request within a request's body never reaches the provider."""

from __future__ import annotations

import socket
from typing import Any

import pytest

TARGET = b"POST /v1/capture/openai/v1/chat/completions"
HIDDEN = b"GET /v1/capture/openai/v1/hidden HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
LENGTH = str(len(HIDDEN)).encode()
BOTH = b"content-length: " + LENGTH + b"\r\ntransfer-encoding: chunked"
DISGUISED = [
    b"transfer-encoding : chunked",
    b" transfer-encoding: chunked",
    b"transfer-encoding:\x0bchunked",
    b"transfer-encoding: xchunked",
    b"transfer-encoding: chunked, identity",
    b"transfer-encoding: identity, chunked",
    b"transfer-encoding: chunked\r\ntransfer-encoding: identity",
    b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    b"transfer-encoding:\r\n chunked",
    b'transfer-encoding: "chunked"',
    b"x: y\ntransfer-encoding: chunked",
    b"x: y\rtransfer-encoding: chunked",
    b"transfer-encoding\x00: chunked",
]
LENGTHS = [b"+" + LENGTH, b"-0", b"0x1", LENGTH + b", 0", b"0, " + LENGTH, b"1e2", b" ", b"0_0"]
LEGAL_CHUNKS = [b"0;" + b"x" * 70_000 + b"\r\n\r\n", b"0" * 32 + b"\r\n\r\n"]
ODD_CHUNKS = [
    b"0\n\n",
    b"0 \r\n\r\n",
    b"-0\r\n\r\n",
    b"0x0\r\n\r\n",
    b"FFFFFFFFFFFFFFFF0\r\n\r\n",
    b"1\r\nab\r\n0\r\n\r\n",
]


def exchange(port: int, data: bytes) -> bytes:
    """All that comes back until the connection ends or nothing comes for a moment."""
    told = b""
    with socket.create_connection(("127.0.0.1", port), timeout=1.0) as client:
        try:
            client.sendall(data)
            while piece := client.recv(1 << 16):
                told += piece
        except OSError:
            pass
    return told


def head(*lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    start = TARGET + b" " + version
    return b"\r\n".join([start, b"host: 127.0.0.1", *lines, b"", b""])


AMBIGUOUS = {
    "both, length says body": head(BOTH) + b"0\r\n\r\n" + HIDDEN,
    "both, in HTTP/1.0": head(BOTH, version=b"HTTP/1.0") + b"0\r\n\r\n" + HIDDEN,
    "two lengths": head(b"content-length: 0", b"content-length: " + LENGTH) + HIDDEN,
    **{
        f"coding {at}": head(b"content-length: " + LENGTH, each) + HIDDEN
        for at, each in enumerate(DISGUISED)
    },
    **{
        f"coding {at} and chunks": head(b"content-length: 5", each) + b"0\r\n\r\n" + HIDDEN
        for at, each in enumerate(DISGUISED)
    },
    **{
        f"length {at}": head(b"content-length: " + each) + HIDDEN for at, each in enumerate(LENGTHS)
    },
}


CHUNKED = head(b"transfer-encoding: chunked")


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_of_two_readings_is_refused_with_all_that_follows(
    gateway: Any, provider: Any, sent: bytes
) -> None:
    told = exchange(gateway.server.port, sent)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert told.count(b"HTTP/1.1 400 ") == 1
    assert b"connection: close" in told
    assert provider.seen == []


@pytest.mark.parametrize("chunks", ODD_CHUNKS, ids=range(len(ODD_CHUNKS)))
def test_a_body_of_odd_chunks_is_refused_with_all_that_follows(
    gateway: Any, provider: Any, chunks: bytes
) -> None:
    told = exchange(gateway.server.port, CHUNKED + chunks + HIDDEN)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert provider.seen == []


@pytest.mark.parametrize("chunks", LEGAL_CHUNKS, ids=["extension", "zeros"])
def test_what_follows_a_legal_body_is_the_next_request(
    gateway: Any, provider: Any, chunks: bytes
) -> None:
    """So the refusals above are no refusals of everything."""
    told = exchange(gateway.server.port, CHUNKED + chunks + HIDDEN)
    assert told.count(b"HTTP/1.1 200 ") == 2
    assert [(each.path, each.body) for each in provider.seen] == [
        ("/v1/chat/completions", b""),
        ("/v1/hidden", b""),
    ]


def test_a_header_that_only_looks_like_a_coding_is_none(gateway: Any, provider: Any) -> None:
    sent = head(b"content-length: " + LENGTH, b"transfer_encoding: chunked") + HIDDEN
    assert exchange(gateway.server.port, sent).startswith(b"HTTP/1.1 200 ")
    assert [each.body for each in provider.seen] == [HIDDEN]
