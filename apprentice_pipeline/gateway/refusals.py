"""Refusals of requests that never reach a route, worded as their provider would.

Belongs here: which shape an error takes by the path that was asked for, and its bytes where no
ASGI cycle exists yet. Does not: deciding to refuse (`guard`, `app`).
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import orjson
from starlette.types import Scope, Send

from apprentice_pipeline.gateway import replies
from apprentice_pipeline.gateway.capture import PREFIX
from apprentice_pipeline.wire.providers import PROVIDERS, wire_format

RETRY_AFTER_S = 1
_LATER = frozenset({429, 503})


def head_bytes(headers: Iterable[tuple[bytes, bytes]], url: bytes) -> int:
    """The size of a request's head, about as it came."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def error_body(path: str, status: int, message: str) -> bytes:
    """The error in the shape of the provider in `path`, else in the control plane's."""
    provider = path.removeprefix(PREFIX).partition("/")[0] if path.startswith(PREFIX) else ""
    if provider in PROVIDERS:
        return wire_format(provider).write_error(status, message)
    return orjson.dumps({"error": {"message": message, "type": "Refusal", "remedy": ""}})


def on_the_wire(url: bytes, status: int, message: str) -> bytes:
    """A whole HTTP/1.1 response that ends its connection, for the request target `url`."""
    body = error_body(url.decode("latin-1").partition("?")[0], status, message)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    if status in _LATER:
        lines.append(f"retry-after: {RETRY_AFTER_S}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    """Answers a request of the application's with an error of ours, and ends its connection."""
    later = [(b"retry-after", str(RETRY_AFTER_S).encode())] if status in _LATER else []
    body = error_body(scope["path"], status, message)
    await replies.whole(send, status, body, replies.JSON, (b"connection", b"close"), *later)
