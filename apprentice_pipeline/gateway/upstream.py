"""The client of the providers.

Belongs here: addresses (from the configuration only), the framing of a request, what a failed call
looks like. Does not: headers' meaning, bodies' meaning, bytes on the wire (`connections`).
Bodies are neither compressed nor decompressed, redirects are not followed, cookies not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from apprentice_pipeline.config import Endpoints, Gateway
from apprentice_pipeline.errors import RemoteError
from apprentice_pipeline.gateway.connections import Body, Origin, Pool, request_head
from apprentice_pipeline.gateway.response import Broken, Header, Response, Silent

CONNECT_S = 10.0
_SAFE_TWICE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Outgoing(NamedTuple):
    """A request for a provider, all but its body."""

    method: str
    provider: str
    path: str
    query: str
    headers: Sequence[Header]
    content_length: int | None = None


@dataclass(frozen=True, slots=True)
class _Base:
    """A provider's address: where to connect, and what comes before a path."""

    origin: Origin
    path: str
    host: bytes

    @classmethod
    def of(cls, url: str) -> _Base:
        parts = urlsplit(url.rstrip("/"))
        tls, host = parts.scheme == "https", parts.hostname or ""
        usual = 443 if tls else 80
        port = parts.port or usual
        shown = f"[{host}]" if ":" in host else host
        named = shown if port == usual else f"{shown}:{port}"
        return cls(
            Origin(host, port, tls),
            parts.path,
            named.encode("idna" if not host.isascii() else "ascii"),
        )


class Upstream:
    """Calls providers. One per process; lives on one event loop."""

    def __init__(self, endpoints: Endpoints, limits: Gateway) -> None:
        self._bases = {
            "openai": _Base.of(endpoints.openai),
            "anthropic": _Base.of(endpoints.anthropic),
            "gemini": _Base.of(endpoints.gemini),
        }
        self._pool = Pool(
            limits.max_connections, limits.upstream_timeout_s, limits.total_timeout_s, CONNECT_S
        )

    async def send(self, request: Outgoing, body: Body) -> Response:
        """The provider's response, its body unread; the caller says when it is `done`.

        `body` in one piece, or as it arrives.
        Raises: RemoteError when none came (status 504 after a timeout, else 502); what `body`
        raises.
        """
        base = self._bases[request.provider]
        try:
            framing = _framing(request, body)
            target = f"{base.path}{request.path}"
            if request.query:
                target = f"{target}?{request.query}"
            headers = ((b"host", base.host), *request.headers, *framing)
            head = request_head(request.method, target, headers)
            return await self._call(request.method, base.origin, head, body, framing == _CHUNKED)
        except Silent:
            raise RemoteError("the provider did not answer in time", status=504) from None
        except TimeoutError:
            raise RemoteError("the provider cannot be reached in time", status=502) from None
        except Broken as error:
            raise RemoteError(str(error), status=502) from None
        except (OSError, ValueError) as error:
            raise RemoteError(
                f"the provider cannot be reached ({type(error).__name__})", status=502
            ) from None

    async def close(self) -> None:
        """Closes every connection."""
        await self._pool.close()

    async def _call(
        self, method: str, origin: Origin, head: bytes, body: Body, chunked: bool
    ) -> Response:
        """One call; a second one only where the first met a connection that was ending, and
        where to be done twice does no harm (RFC 9110, section 9.2.2)."""
        connection, used = await self._pool.take(origin)
        try:
            return await connection.call(method, head, body, chunked=chunked)
        except Broken:
            if not used or method not in _SAFE_TWICE or not isinstance(body, bytes):
                raise
        connection, _ = await self._pool.take(origin)
        return await connection.call(method, head, body, chunked=chunked)


def climbs(path: str) -> bool:
    """Whether some server would read a segment of the path as "one up", however it is written."""
    if ".." not in path and "%" not in path and "\\" not in path:
        return False
    plain = path
    for _ in range(3):
        plain = unquote(plain)
    return ".." in plain.replace("\\", "/").split("/") or "\\" in plain


_CHUNKED: tuple[Header, ...] = ((b"transfer-encoding", b"chunked"),)


def _framing(request: Outgoing, body: Body) -> tuple[Header, ...]:
    """How the body's end is told; one that is passed on as it arrives keeps its length."""
    if isinstance(body, bytes):
        if not body and request.method in _WITHOUT_BODY:
            return ()
        return ((b"content-length", b"%d" % len(body)),)
    if request.content_length is not None:
        return ((b"content-length", b"%d" % request.content_length),)
    return _CHUNKED
