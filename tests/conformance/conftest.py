"""Every case twice: straight to the stand-in frontier, and through a real gateway process.

Belongs here: the two sides, and what must be equal between them. Does not: clients (the tests).
`both(call)` runs `call(side)` against each side and asserts, byte for byte:

- the client got the same responses: status, body, every header but hop-by-hop ones and ours;
- the provider got what the client sent: method, path, query, body, every such header;
- `call` returned the same value on both sides.

It returns what went over the gateway, with the exchanges that the gateway recorded of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.conformance.conformance_gateway import PROVIDER_KEY, Recorded, Row, Served, serving
from tests.conformance.conformance_provider import Provider
from tests.conformance.conformance_tap import Headers, Request, Seen, Tap

HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip
CAPTURED = {"", "/chat/completions", "/responses", "/messages"}
GENERATES = re.compile(r"/models/[^/]+:(stream)?[gG]enerateContent$")
ORIGIN = re.compile(r"^http://[^/]*")
PREFIX = re.compile(r"^/v1/capture/(openai|anthropic|gemini)(?=/|$)")

CREDENTIALS = {
    "openai": ("authorization", f"Bearer {PROVIDER_KEY}"),
    "anthropic": ("x-api-key", PROVIDER_KEY),
    "gemini": ("x-goog-api-key", PROVIDER_KEY),
}


@dataclass(frozen=True)
class Side:
    """Where a client is pointed, and what it is given: an API key and headers of ours, if any.
    `through` is true before the gateway."""

    port: int
    openai: str
    anthropic: str
    gemini: str
    through: bool
    key: str = PROVIDER_KEY
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """What an SDK of OpenAI or Anthropic is made with."""
        return {"api_key": self.key, "default_headers": self.headers}


@dataclass(frozen=True)
class Run:
    """What one case left: the client's value, what passed the gateway, what it recorded."""

    value: Any
    seen: list[Seen]
    rows: list[Row]

    @property
    def row(self) -> Row:
        assert len(self.rows) == 1
        return self.rows[0]


Both = Callable[..., Run]


@pytest.fixture(scope="session")
def providers() -> Iterator[tuple[Provider, Provider]]:
    """The stand-in asked directly, and the one behind the gateway."""
    pair = Provider(), Provider()
    yield pair
    for provider in pair:
        provider.close()


@pytest.fixture(scope="session")
def gateway(
    providers: tuple[Provider, Provider], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A gateway process without keys."""
    with serving(tmp_path_factory.mktemp("conformance"), providers[1].url) as served:
        yield served


@pytest.fixture(scope="session")
def keyed_gateway(
    providers: tuple[Provider, Provider], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A gateway process that wants keys."""
    with serving(tmp_path_factory.mktemp("keyed"), providers[1].url, keyed=True) as served:
        yield served


Sides = tuple[tuple[Tap, Side], tuple[Tap, Side]]


@contextlib.contextmanager
def tapped(provider: Provider, served: Served) -> Iterator[Sides]:
    """A tap and its side before the provider, and before a gateway."""
    direct, through = Tap(provider.port), Tap(served.port)
    base = f"http://127.0.0.1:{direct.port}"
    yield (
        (direct, Side(direct.port, f"{base}/v1", base, base, through=False)),
        (through, through_gateway(through.port)),
    )
    direct.close()
    through.close()


def through_gateway(port: int, key: str = PROVIDER_KEY) -> Side:
    """The side of a client that is pointed at a gateway's port."""
    before = f"http://127.0.0.1:{port}/v1/capture"
    openai, anthropic, gemini = (f"{before}/{name}" for name in ("openai", "anthropic", "gemini"))
    return Side(port, f"{openai}/v1", anthropic, gemini, through=True, key=key)


@pytest.fixture(scope="session")
def sides(providers: tuple[Provider, Provider], gateway: Served) -> Iterator[Sides]:
    with tapped(providers[0], gateway) as made:
        yield made


@pytest.fixture(scope="session")
def keyed_sides(providers: tuple[Provider, Provider], keyed_gateway: Served) -> Iterator[Sides]:
    with tapped(providers[0], keyed_gateway) as made:
        yield made


@pytest.fixture
def both(providers: tuple[Provider, Provider], sides: Sides, recorded: Recorded) -> Both:
    """`both(call, table, …)` before the keyless gateway: see `Twice`."""
    return Twice(providers, sides, recorded)


Keyed = Callable[[str], Both]


@pytest.fixture
def keyed(providers: tuple[Provider, Provider], keyed_sides: Sides, keyed_gateway: Served) -> Keyed:
    """`keyed(how)`: the same before a gateway that wants keys.

    "beside": the client has a capture key in a header and its own provider key. "alone": a
    capture key as its API key and nothing else; the provider's is sealed on the server.
    """

    def made(how: str) -> Both:
        key, (direct, (tap, side)) = keyed_gateway.key, keyed_sides
        given: Any = {"key": key} if how == "alone" else {"headers": {"x-apprentice-key": key}}
        sides = direct, (tap, replace(side, **given))
        return Twice(providers, sides, keyed_gateway.recorded, key)

    return made


@pytest.fixture(params=["beside", "alone"])
def keyed_both(request: pytest.FixtureRequest, keyed: Keyed) -> Both:
    """A client with its own provider key, then one with a capture key alone."""
    return keyed(request.param)


@dataclass(frozen=True)
class Twice:
    """Runs a case against both sides: see the module."""

    providers: tuple[Provider, Provider]
    sides: Sides
    recorded: Recorded
    key: str = ""

    def __call__(
        self,
        call: Callable[[Side], Any],
        table: Any = None,
        *,
        alike: bool = True,
        left: int = 0,
        **settings: Any,
    ) -> Run:
        """`table` and `settings` are the stand-in's.

        Not `alike`: the calls come in no certain order, or end when they end, so that only their
        values are compared. `left`: so many clients leave while a response is under way, which
        the provider must notice.
        """
        known, values, passed = self.recorded.ids(), [], []
        for provider, (tap, side) in zip(self.providers, self.sides, strict=True):
            tap.take()  # of a case that failed
            provider.restart(table or {}, **settings)
            values.append(call(side))
            passed.append(tap.take())
            provider.wait_left(left)
        assert values[0] == values[1]
        direct, through = passed
        assert len(direct) == len(through), "not as many requests"
        if alike:
            for one, other in zip(direct, through, strict=True):
                same_response(one, other, left=bool(left))
        same_requests([unkeyed(seen, self.key) for seen in through], self.providers[1].seen)
        assert not self.key or self.key not in repr(self.providers[1].seen)
        rows = self.recorded.since(known, sum(is_captured(seen.request) for seen in through))
        named = {seen.response.header("x-apprentice-pair-id") for seen in through if seen.response}
        assert named - {None} <= {row.pair_id for row in rows}
        return Run(values[1], through, rows)


@pytest.fixture
def recorded(gateway: Served) -> Recorded:
    """The keyless gateway's lake."""
    return gateway.recorded


def unkeyed(seen: Seen, key: str) -> Seen:
    """What was sent, as the provider is to get it: for a capture key the provider's own, in the
    header that this provider's reference names."""
    if not key:
        return seen
    found = PREFIX.match(ORIGIN.sub("", seen.request.target))
    assert found is not None
    credential = CREDENTIALS[found.group(1)]
    headers = [
        header if key not in header[1] else credential
        for header in seen.request.headers
        if not header[0].startswith("x-apprentice-")
    ]
    return replace(seen, request=replace(seen.request, headers=headers))


def is_captured(request: Request) -> bool:
    """Whether the gateway is to record a request."""
    path = PREFIX.sub("", ORIGIN.sub("", request.target)).partition("?")[0].removeprefix("/v1")
    known = path.rstrip("/") in CAPTURED or GENERATES.search(path)
    return request.method == "POST" and not request.cut and bool(known)


def same_response(direct: Seen, through: Seen, *, left: bool = False) -> None:
    """The client could not tell the two, but for our own headers.

    A client that `left` has got more of the one or of the other.
    """
    one, other = direct.response, through.response
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    assert one.status == other.status
    assert end_to_end(one.headers) == end_to_end(other.headers)
    assert one.interim == other.interim
    shorter = min(len(one.body), len(other.body)) if left else max(len(one.body), len(other.body))
    assert one.body[:shorter] == other.body[:shorter]
    assert one.cut == other.cut or direct.left or through.left


def same_requests(sent: list[Seen], received: list[Request]) -> None:
    """The provider got what the clients sent, in whatever order it came."""
    whole = [seen.request for seen in sent if not seen.request.cut]
    assert len(whole) == len(received)
    for one, other in zip(
        sorted(whole, key=lambda each: (each.body, PREFIX.sub("", each.target))),
        sorted(received, key=lambda each: (each.body, each.target)),
        strict=True,
    ):
        same_request(one, other)


def same_request(sent: Request, received: Request) -> None:
    """The provider got what the client sent."""
    assert received.method == sent.method
    assert received.target == PREFIX.sub("", ORIGIN.sub("", sent.target))
    assert received.body == sent.body
    # Of framing, only a length that was said, of a body that there is, is for the other end.
    chunked = "transfer-encoding" in dict(sent.headers)
    framing = {"content-length"} if chunked or not sent.body else set()
    dropped = {"host", "expect"} | framing
    assert sorted_by_name(received.headers, dropped) == sorted_by_name(sent.headers, dropped)


def sorted_by_name(headers: Headers, dropped: set[str]) -> Headers:
    """The order of headers of different names says nothing (RFC 9110, section 5.3)."""
    return sorted(end_to_end(headers, dropped), key=lambda header: header[0])


def end_to_end(headers: Headers, dropped: set[str] | frozenset[str] = frozenset()) -> Headers:
    """Headers that are for the other end, in order."""
    return [
        (name, value)
        for name, value in headers
        if name not in HOP_BY_HOP | dropped and not name.startswith("x-apprentice-")
    ]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that read proxy settings go straight to the loopback."""
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
    ):
        for spelling in (name, name.lower()):
            with contextlib.suppress(KeyError):
                monkeypatch.delenv(spelling)
