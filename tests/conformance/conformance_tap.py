"""A tap on the wire: passes a client's bytes on, both ways, and keeps them.

Belongs here: relaying sockets, reading what was relayed as HTTP/1.1 messages. Does not: any
client or server. Nothing between client and server is changed, so the client is the real one.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import h11

Headers = list[tuple[str, str]]
BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its client wrote it; `cut` where it did not come whole."""

    method: str
    target: str
    headers: Headers
    body: bytes
    cut: bool


@dataclass(frozen=True, slots=True)
class Response:
    """A response as its client got it, its framing undone; `cut` where it did not come whole."""

    interim: list[int]
    status: int
    headers: Headers
    body: bytes
    cut: bool

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request and its response, None where the client left before it began.

    `left`: the client closed the connection, so that the response's end may not have come.
    """

    request: Request
    response: Response | None
    left: bool


@dataclass
class _Connection:
    number: int
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    left: bool | None = None

    def end(self, *, left: bool) -> None:
        """Notes which side closed first."""
        self.left = left if self.left is None else self.left


class Tap:
    """Listens on a loopback port before one server. `port` is where clients go."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        self._connections: list[_Connection] = []
        self._open: set[socket.socket] = set()
        self._idle = threading.Condition()
        self._numbers = itertools.count()
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self, kept_open_s: float = 0.5) -> list[Seen]:
        """What passed since the last call; connections that a client keeps open are closed."""
        with self._idle:
            if not self._idle.wait_for(lambda: not self._open, kept_open_s):
                for client in self._open:
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)
            assert self._idle.wait_for(lambda: not self._open, 60.0), "a connection stays open"
            done, self._connections = self._connections, []
        done.sort(key=lambda connection: connection.number)
        return [seen for connection in done for seen in _read(connection)]

    def close(self) -> None:
        """Lets nobody in any more."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            connection = _Connection(next(self._numbers))
            with self._idle:
                self._connections.append(connection)
                self._open.add(client)
            threading.Thread(target=self._relay, args=(client, connection), daemon=True).start()

    def _relay(self, client: socket.socket, connection: _Connection) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            back = threading.Thread(
                target=_pump,
                args=(server, client, connection.received, lambda: connection.end(left=False)),
                daemon=True,
            )
            back.start()
            _pump(client, server, connection.sent, lambda: connection.end(left=True))
            back.join()
        with self._idle:
            self._open.discard(client)
            self._idle.notify_all()


def _pump(
    source: socket.socket, target: socket.socket, kept: bytearray, ended: Callable[[], None]
) -> None:
    """Copies until either side ends; then neither may wait for more."""
    try:
        while data := source.recv(BUFFER):
            kept += data
            target.sendall(data)
    except OSError:
        pass
    ended()
    for end in (target, source):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def _read(connection: _Connection) -> list[Seen]:
    requests = _requests(bytes(connection.sent))
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 26)
    client.receive_data(bytes(connection.received))
    client.receive_data(b"")
    answered = [_response(client, request) for request in requests]
    return [
        Seen(request, response, bool(connection.left))
        for request, response in zip(requests, answered, strict=True)
    ]


def _requests(data: bytes) -> list[Request]:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 26)
    server.receive_data(data)
    server.receive_data(b"")
    found: list[Request] = []
    while isinstance(head := server.next_event(), h11.Request):
        body, cut = _body(server)
        method, target = head.method.decode(), head.target.decode()
        found.append(Request(method, target, _headers(head.headers), body, cut))
        if cut or server.their_state is not h11.DONE:
            break
        server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        server.send(h11.EndOfMessage())
        if server.our_state is not h11.DONE:
            break
        server.start_next_cycle()
    return found


def _response(client: h11.Connection, request: Request) -> Response | None:
    """The next response on a connection, to this request."""
    if client.our_state is h11.DONE and client.their_state is h11.DONE:
        client.start_next_cycle()
    if client.our_state is not h11.IDLE:
        return None
    length = [("content-length", "0")] if request.method not in {"GET", "HEAD"} else []
    client.send(h11.Request(method=request.method, target="/", headers=[("host", "x"), *length]))
    client.send(h11.EndOfMessage())
    interim: list[int] = []
    try:
        while isinstance(head := client.next_event(), h11.InformationalResponse):
            interim.append(head.status_code)
    except h11.RemoteProtocolError:
        return None
    if not isinstance(head, h11.Response):
        return None
    body, cut = _body(client)
    return Response(interim, head.status_code, _headers(head.headers), body, cut)


def _body(side: h11.Connection) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    try:
        while isinstance(event := side.next_event(), h11.Data):
            parts.append(bytes(event.data))
    except h11.RemoteProtocolError:
        return b"".join(parts), True
    return b"".join(parts), not isinstance(event, h11.EndOfMessage)


def _headers(headers: h11.Headers) -> Headers:
    return [(name.decode(), value.decode("latin-1")) for name, value in headers]
