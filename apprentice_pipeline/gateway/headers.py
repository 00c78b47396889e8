"""Which headers pass the gateway, in which direction.

Belongs here: hop-by-hop headers, our own headers, what the hot path reads of a request's.
Does not: what a header's value decides (`access`, `capture`).
Order, repetition and values are kept; names arrive in lower case (ASGI has them so).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KEY = b"x-apprentice-key"
NAMESPACE = b"x-apprentice-namespace"
PAIR_ID = b"x-apprentice-pair-id"
SERVED_BY = b"x-apprentice-served-by"
QUALITY_RISK = b"x-apprentice-quality-risk"
TOKEN_PREFIX = "ak_"  # noqa: S105 - how a key begins, not a key

RawHeaders = Iterable[tuple[bytes, bytes]]

_OURS = b"x-apprentice-"
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
_NOT_FORWARDED = _HOP_BY_HOP | {b"host", b"content-length", b"expect", KEY, NAMESPACE}


@dataclass(slots=True)
class Incoming:
    """A request's headers, read once. `forward` is what goes on to the provider."""

    forward: list[tuple[bytes, bytes]]
    key: str = ""
    namespace: str = ""
    bearer: str = ""
    api_key: str = ""
    goog_key: str = ""
    query_key: str = ""
    host: str = ""
    origin: str = ""
    fetch_site: str = ""
    content_length: int | None = None
    content_encoding: str = ""
    transfer_encoding: str = ""

    @property
    def has_body(self) -> bool:
        """Whether a body was declared (RFC 9112, section 6.3)."""
        return bool(self.content_length or self.transfer_encoding)

    @property
    def token(self) -> str:
        """The apprentice token of the request: its own header, else the SDK's API key."""
        return self.key or self.sdk_token

    @property
    def sdk_token(self) -> str:
        """An apprentice token that was given as the SDK's API key, "" when none was."""
        for given in (self.bearer, self.api_key, self.goog_key, self.query_key):
            if given.startswith(TOKEN_PREFIX):
                return given
        return ""

    def replace_credentials(self, provider: str, provider_key: str) -> None:
        """Puts the provider's key where the SDK put an apprentice token."""
        kept = [header for header in self.forward if header[0] not in _CREDENTIALS]
        name, value = _CREDENTIAL.get(provider, (b"authorization", "Bearer {}"))
        self.forward = [*kept, (name, value.format(provider_key).encode())]


_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key"})
_TOKEN = re.compile(rb"(?<![\w-])ak_")
"""An apprentice token in a header's value: no provider gets one, wherever it stands."""
_CREDENTIAL = {"anthropic": (b"x-api-key", "{}"), "gemini": (b"x-goog-api-key", "{}")}


def read_headers(raw: Sequence[tuple[bytes, bytes]]) -> Incoming:
    """The headers of an ASGI scope."""
    forward: list[tuple[bytes, bytes]] = []
    found = Incoming(forward)
    dropped: frozenset[bytes] = _NOT_FORWARDED
    for name, value in raw:
        if name == b"connection" and value not in (b"keep-alive", b"close"):
            dropped = dropped | _connection_names(value)
    for name, value in raw:
        reader = _READ.get(name)
        if reader is not None:
            text = value.decode("latin-1")
            if name not in _CREDENTIALS and (before := getattr(found, reader)):
                text = f"{before}, {text}"  # two of them are not one and not the other
            setattr(found, reader, text)
        if name not in dropped and not name.startswith(_OURS):
            if b"ak_" not in value or name not in _CREDENTIALS or not _TOKEN.search(value):
                forward.append((name, value))
        elif name == b"content-length" and value.isdigit():
            found.content_length = int(value)
    found.bearer = _bearer(found.bearer)
    return found


_READ = {
    KEY: "key",
    NAMESPACE: "namespace",
    b"authorization": "bearer",
    b"x-api-key": "api_key",
    b"x-goog-api-key": "goog_key",
    b"host": "host",
    b"origin": "origin",
    b"sec-fetch-site": "fetch_site",
    b"content-encoding": "content_encoding",
    b"transfer-encoding": "transfer_encoding",
}


def response_headers(raw: RawHeaders, *ours: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The provider's response headers as the client gets them, with `ours` at the end."""
    kept: list[tuple[bytes, bytes]] = []
    dropped: frozenset[bytes] = _HOP_BY_HOP
    for name, value in raw:
        lower = name.lower()
        if lower not in dropped:
            if not lower.startswith(_OURS):
                kept.append((lower, value))
        elif lower == b"connection" and (named := _connection_names(value)):
            dropped = dropped | named
            kept = [(kept_name, v) for kept_name, v in kept if kept_name not in named]
    kept.extend(ours)
    return kept


def _connection_names(value: bytes) -> frozenset[bytes]:
    """Headers that a Connection header declares hop-by-hop (RFC 9110, section 7.6.1).

    What frames the message cannot be declared away.
    """
    names = {name.strip().lower() for name in value.split(b",")}
    return frozenset(names - {b"close", b"content-length", b"content-type", b"content-encoding"})


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
