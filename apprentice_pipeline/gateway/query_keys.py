"""API keys that a client puts into the address (`?key=…`, as Google's API takes them).

Belongs here: finding an apprentice token there and taking it out. Does not: what it may do
(`access`). A provider's own key passes as it is; nothing here keeps or words a query.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

from apprentice_pipeline.gateway.headers import TOKEN_PREFIX

IN_QUERY = {"gemini": "key"}
"""Providers that take their key in the query, and under which name."""


def query_token(provider: str, query: str) -> str:
    """The apprentice token given as the provider's key in the query, "" when there is none."""
    name = IN_QUERY.get(provider)
    if name is None or not query:
        return ""
    for part in query.split("&"):
        given, _, value = part.partition("=")
        if unquote_plus(given) == name and (token := unquote_plus(value)).startswith(TOKEN_PREFIX):
            return token
    return ""


def without_token(provider: str, query: str) -> str:
    """The query but for the parameter that `query_token` reads."""
    name = IN_QUERY.get(provider)
    return "&".join(part for part in query.split("&") if not _is(name, part))


def holds_key(provider: str, query: str) -> bool:
    """Whether there is a key in the query: such an address is kept nowhere."""
    name = IN_QUERY.get(provider)
    return name is not None and any(_is(name, part) for part in query.split("&"))


def _is(name: str | None, part: str) -> bool:
    """Whether a part of a query is the parameter of that name, however it is encoded."""
    return unquote_plus(part.partition("=")[0]) == name
