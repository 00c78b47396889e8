"""The client of the providers.

Belongs here: addresses (from the configuration only), the connection pool, what a failed call
looks like. Does not: headers' meaning, bodies' meaning.
Bodies are neither compressed nor decompressed, redirects are not followed, cookies not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from apprentice_pipeline.config import Endpoints, Gateway
from apprentice_pipeline.errors import RemoteError
from apprentice_pipeline.gateway.query_keys import holds_key

CONNECT_S = 10.0
_IN_ONE_PIECE = 1 << 20
_PIECE = 1 << 18
_MOST_URLS, _LONGEST_KEPT = 4_096, 512
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request for a provider, all but its body."""

    method: str
    provider: str
    path: str
    query: str
    headers: CIMultiDict[str]
    content_length: int | None = None


class Upstream:
    """Calls providers. One per process; lives on one event loop."""

    def __init__(self, endpoints: Endpoints, limits: Gateway) -> None:
        self._bases = {
            "openai": endpoints.openai.rstrip("/"),
            "anthropic": endpoints.anthropic.rstrip("/"),
            "gemini": endpoints.gemini.rstrip("/"),
        }
        self._urls: dict[tuple[str, str, str], URL] = {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limits.max_connections, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_S, sock_read=limits.upstream_timeout_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_ADDED,
            auto_decompress=False,
            trust_env=False,
            read_bufsize=1 << 18,
        )

    async def send(
        self, request: Outgoing, body: bytes | AsyncIterator[bytes]
    ) -> aiohttp.ClientResponse:
        """The provider's response, its body unread; the caller closes it.

        `body` in one piece, or as it arrives.
        Raises: RemoteError when none came (status 504 after a timeout, else 502).
        """
        try:
            return await self._session.request(
                request.method,
                self._url(request),
                headers=_framed(request, body),
                data=_data(body),
                allow_redirects=False,
            )
        except aiohttp.ConnectionTimeoutError:
            raise RemoteError("the provider cannot be reached in time", status=502) from None
        except TimeoutError:
            raise RemoteError("the provider did not answer in time", status=504) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RemoteError(
                f"the provider cannot be reached ({type(error).__name__})", status=502
            ) from None

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()
        await asyncio.sleep(0)

    def _url(self, request: Outgoing) -> URL:
        place = (request.provider, request.path, request.query)
        url = self._urls.get(place)
        if url is None:
            query = f"?{request.query}" if request.query else ""
            url = URL(self._bases[request.provider] + request.path + query, encoded=True)
            longest = len(request.path) + len(request.query)
            if longest > _LONGEST_KEPT or holds_key(request.provider, request.query):
                return url
            if len(self._urls) >= _MOST_URLS:
                self._urls.clear()
            self._urls[place] = url
        return url


def climbs(path: str) -> bool:
    """Whether some server would read a segment of the path as "one up", however it is written."""
    if ".." not in path and "%" not in path and "\\" not in path:
        return False
    plain = path
    for _ in range(3):
        plain = unquote(plain)
    return ".." in plain.replace("\\", "/").split("/") or "\\" in plain


def _framed(request: Outgoing, body: bytes | AsyncIterator[bytes]) -> CIMultiDict[str]:
    """A body that is passed on as it arrives keeps the length its client declared."""
    if isinstance(body, bytes) and len(body) <= _IN_ONE_PIECE:
        return request.headers
    length = request.content_length
    if isinstance(body, bytes):
        length = len(body)
    if length is not None:
        request.headers["content-length"] = str(length)
    return request.headers


def _data(body: bytes | AsyncIterator[bytes]) -> bytes | AsyncIterator[bytes] | None:
    if isinstance(body, bytes):
        return _in_pieces(body) if len(body) > _IN_ONE_PIECE else body or None
    return body


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]
