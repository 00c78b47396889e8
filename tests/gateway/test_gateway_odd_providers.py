"""Providers that answer with odd or hostile HTTP: the client gets the answer, or a clear error.

Nothing of one answer reaches another call, and nothing that a provider sends is kept without end.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.eventually import eventually

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
BODY = (
    b'{"id":"c","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":'
    b'"pong"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
WHOLE = OK + LENGTH + b"\r\n" + BODY
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HINTS = (
    b"HTTP/1.1 103 Early Hints\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
    b"content-length: 3\r\nx-evil: 1\r\n\r\n"
)

EVIL = b"HTTP/1.1 500 Evil\r\nx-evil: 1\r\ncontent-length: 4\r\n\r\nevil"
Speak = Callable[[socket.socket], None]


class RawProvider:
    """Answers its first request as `first` does, then closes unless it `stays`; all others well."""

    def __init__(self, first: bytes | Speak, *, stays: bool = False) -> None:
        self._first = first
        self._stays = stays
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.calls = 0
        self.spoken = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, EOFError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                if self._read(connection):
                    connection.sendall(WHOLE)
                    continue
                try:
                    if callable(self._first):
                        self._first(connection)
                    else:
                        connection.sendall(self._first)
                finally:
                    self.spoken.set()
                if not self._stays:
                    return

    def _read(self, connection: socket.socket) -> int:
        """Reads a request; returns how many came before. The first is not read past its head
        where it is large."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (piece := connection.recv(1 << 16)):
                raise EOFError
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        while len(body) < length < 1_000_000:
            body += connection.recv(1 << 16)
        self.calls += 1
        return self.calls - 1

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


Speaking = Callable[..., RawProvider]


@pytest.fixture
def speaking() -> Iterator[Speaking]:
    """`speaking(first, stays=…)`: a provider of that kind."""
    with ExitStack() as stack:

        def make(first: bytes | Speak, *, stays: bool = False) -> RawProvider:
            made = RawProvider(first, stays=stays)
            stack.callback(made.close)
            return made

        yield make


def with_header(line: bytes) -> bytes:
    return OK + line + b"\r\n" + LENGTH + b"\r\n" + BODY


PASSED = {
    "as usual": WHOLE,
    "bytes beyond ASCII": with_header(b"x-a: caf\xe9 \xc3\xa9"),
    "an empty header": with_header(b"x-a:"),
    "many headers": with_header(b"\r\n".join(b"x-%d: 1" % n for n in range(60))),
    "trailers": CHUNKED + CHUNKS[:-2] + b"x-evil: 1\r\nset-cookie: evil\r\n\r\n",
    "chunk extensions": CHUNKED + CHUNKS.replace(b"\r\n", b';a="b"\r\n', 1),
    "early hints of another form": HINTS + CHUNKED + CHUNKS,
    "some interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 100 + WHOLE,
    "HTTP/1.0": WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another answer behind": WHOLE + EVIL,
    "another answer behind chunks": CHUNKED + CHUNKS + EVIL,
    "half an answer behind": WHOLE + EVIL[:28],
    "garbage behind": WHOLE + b"garbage",
    "blank lines behind": WHOLE + b"\r\n\r\n",
    "names of hop-by-hop headers": with_header(
        b"connection: x-evil, content-length, x-apprentice-pair-id\r\nx-evil: 1"
    ),
    "headers of ours": with_header(b"x-apprentice-pair-id: evil\r\nX-Apprentice-Served-By: evil"),
}
PASSED_AND_CLOSED = {
    "no length": OK + b"\r\n" + BODY,
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
}
BROKEN = {
    "a folded header": with_header(b"x-a: one\r\n two"),
    "a bare CR": with_header(b"x-a: one\rx-evil: 1"),
    "a bare LF": with_header(b"x-a: one\nx-evil: 1"),
    "a NUL": with_header(b"x-a: o\0ne"),
    "a control character": with_header(b"x-a: o\x01ne"),
    "a name of two words": with_header(b"x a: 1"),
    "a name beyond ASCII": with_header(b"x-\xe9: 1"),
    "two lengths": with_header(b"content-length: 5"),
    "a length and chunks": with_header(b"transfer-encoding: chunked"),
    "a negative length": OK + b"content-length: -1\r\n\r\n" + BODY,
    "no HTTP": BODY,
    "no status": WHOLE.replace(b"200 OK", b"000 X"),
    "a status of one digit": WHOLE.replace(b"200 OK", b"099 X"),
    "a status beyond 599": WHOLE.replace(b"200 OK", b"600 X"),
    "a large head": with_header(b"x-a: " + b"y" * 300_000),
    "another protocol": b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + WHOLE,
    "another protocol, unsaid": b"HTTP/1.1 101 X\r\n\r\n" + WHOLE,
    "nothing": b"",
    "half a head": OK,
}
CUT = {
    "after the head": OK + LENGTH + b"\r\n",
    "in the body": WHOLE[:-9],
    "in a chunk": CHUNKED + CHUNKS[:20],
    "between chunks": CHUNKED + CHUNKS[:-5],
    "by a chunk that is none": CHUNKED + CHUNKS[:-5] + b"nonsense\r\n",
}


@pytest.mark.parametrize(
    ("said", "stays"),
    [
        *(pytest.param(said, False, id=f"{name}, closed") for name, said in PASSED.items()),
        *(pytest.param(said, True, id=f"{name}, kept open") for name, said in PASSED.items()),
        *(pytest.param(said, False, id=name) for name, said in PASSED_AND_CLOSED.items()),
    ],
)
def test_an_odd_answer_passes_and_the_next_call_has_its_own(
    start: Any, speaking: Speaking, ask: Any, said: bytes, stays: bool
) -> None:
    gateway = start(url=speaking(said, stays=stays).url)
    for _ in range(2):
        answer = ask(gateway.capture(), CHAT, ASK)
        assert (answer.status, answer.body) == (200, BODY)
        assert "evil" not in str(answer.headers)
    wait_for(lambda: gateway.counted("pairs") == 2)
    assert gateway.counted("requests") == 2


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_502_and_the_next_call_has_its_own(
    start: Any, speaking: Speaking, ask: Any, said: bytes
) -> None:
    gateway = start(url=speaking(said).url)
    refused = ask(gateway.capture("anthropic"), "", ASK)
    assert refused.status == 502
    assert refused.json()["error"]["message"].startswith("the provider")
    assert "evil" not in str(refused)
    assert ask(gateway.capture(), CHAT, ASK).body == BODY
    assert [row["status"] for row in gateway.captured()] == [502, 200]
    wait_for(lambda: gateway.counted("upstream_failures") == 1)


@pytest.mark.parametrize("said", CUT.values(), ids=CUT)
def test_an_answer_that_breaks_off_breaks_off_for_its_client_only(
    start: Any, speaking: Speaking, ask: Any, said: bytes
) -> None:
    gateway = start(url=speaking(said).url)
    with pytest.raises(http.client.IncompleteRead):
        ask(gateway.capture(), CHAT, ASK)
    assert ask(gateway.capture(), CHAT, ASK).body == BODY
    wait_for(lambda: gateway.counted("pairs") == gateway.counted("cut_by_provider") == 1)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_may_speak_of_one(
    start: Any, speaking: Speaking, status: int
) -> None:
    """RFC 9110 lets a 304 tell the length that a 200 would have; the connection goes on."""
    said = b"HTTP/1.1 %d X\r\netag: a\r\ncontent-length: 4\r\n\r\nevil" % status
    gateway = start(url=speaking(said).url)
    client = http.client.HTTPConnection("127.0.0.1", gateway.server.port, timeout=60)
    for expected in (status, 200):
        client.request("POST", f"/v1/capture/openai{CHAT}", orjson.dumps(ASK))
        response = client.getresponse()
        assert (response.status, b"evil" in response.read()) == (expected, False)
    client.close()
    assert gateway.counted("unexpected") == 0


def endless(begin: bytes, piece: bytes) -> Speak:
    def speak(connection: socket.socket) -> None:
        connection.sendall(begin)
        sent = 0
        while sent < 64_000_000:  # far beyond what the system's buffers take
            connection.sendall(piece)
            sent += len(piece)
        raise AssertionError("nobody stopped it")

    return speak


ENDLESS = {
    "a header": (OK + b"x-a: ", b"y" * 10_000, True),
    "a header's name": (OK, b"y" * 10_000, True),
    "a status line": (b"HTTP/1.1 200 ", b"y" * 10_000, True),
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\nx-a: b\r\n\r\n" * 100, True),
    "trailers": (CHUNKED + CHUNKS[:-2], b"x-a: b\r\n" * 1_000, False),
    "a chunk's extension": (CHUNKED + b"5;", b"y" * 10_000, False),
    "zeros of a chunk's size": (CHUNKED, b"0" * 10_000, False),
}


@pytest.mark.parametrize(("begin", "piece", "in_head"), ENDLESS.values(), ids=ENDLESS)
def test_what_is_no_body_has_an_end(
    start: Any, speaking: Speaking, ask: Any, begin: bytes, piece: bytes, in_head: bool
) -> None:
    provider = speaking(endless(begin, piece))
    gateway = start(url=provider.url)
    if in_head:
        assert ask(gateway.capture(), CHAT, ASK).status == 502
    else:
        with pytest.raises(http.client.IncompleteRead):
            ask(gateway.capture(), CHAT, ASK)
    assert provider.spoken.wait(60)
    assert ask(gateway.capture(), CHAT, ASK).body == BODY


def drip(begin: bytes, piece: bytes) -> Speak:
    def speak(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(piece)
            time.sleep(0.05)

    return speak


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(OK + b"content-length: 9999\r\n\r\n", b"x"), (b"", b"HTTP/1.1 102 Processing\r\n\r\n")],
    ids=["body", "interim"],
)
def test_an_answer_that_drips_gives_its_place_back(
    start: Any, speaking: Speaking, ask: Any, begin: bytes, piece: bytes
) -> None:
    """Each byte comes in time; the whole does not, and its client is long gone."""
    gateway = start(
        url=speaking(drip(begin, piece)).url, gateway={"total_timeout_s": 1, "max_in_flight": 1}
    )
    with suppress(http.client.HTTPException, OSError):
        assert ask(gateway.capture(), CHAT, ASK).status == 504
    wait_for(lambda: ask(gateway.capture(), CHAT, ASK).status == 200)


def refuse_early(connection: socket.socket) -> None:
    error = b'{"error":{"message":"too large"}}'
    connection.sendall(
        b"HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(error) + error
    )
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1 << 16):
        continue


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_early_answer_to_a_large_body_is_passed_on(
    start: Any, speaking: Speaking, framing: str
) -> None:
    """It arrives while the client still sends, and another call goes over its connection."""
    gateway = start(url=speaking(refuse_early).url)
    client = http.client.HTTPConnection("127.0.0.1", gateway.server.port, timeout=60)
    body = bytes(20_000_000)
    parts = (body[place : place + 100_000] for place in range(0, len(body), 100_000))
    client.request("POST", "/v1/capture/openai/v1/files", body if framing == "length" else parts)
    response = client.getresponse()
    assert (response.status, b"too large" in response.read()) == (413, True)
    client.request("POST", f"/v1/capture/openai{CHAT}", orjson.dumps(ASK))
    assert client.getresponse().read() == BODY
    client.close()


BOMB = 600_000_000


def bomb() -> bytes:
    packing = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    piece = bytes(1_000_000)
    packed = b"".join(packing.compress(piece) for _ in range(BOMB // len(piece)))
    return packed + packing.flush()


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_bomb_is_passed_on_as_it_came_and_never_expanded(
    serve: Any, speaking: Speaking, ask: Any, kind: str
) -> None:
    packed = bomb()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: gzip\r\n"
    framed = head.encode() + b"content-length: %d\r\n\r\n" % len(packed) + packed
    provider = speaking(framed)
    command = serve(remote={"endpoints": {"openai": provider.url}})
    (worker,) = command.workers()
    before = peak(worker)
    assert ask(command.capture(), CHAT, ASK).body == packed
    assert ask(command.capture(), CHAT, ASK).body == BODY
    assert peak(worker) - before < BOMB / 8
    eventually(lambda: b'event="unreadable"} 1.0' in ask(command.url, "/metrics").body)


def peak(pid: int) -> int:
    """The most memory that a process ever had, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
