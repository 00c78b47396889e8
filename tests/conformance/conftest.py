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
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.workspace import Workspace
from tests.conformance.conformance_provider import Provider
from tests.conformance.conformance_tap import Headers, Request, Seen, Tap

CONFIG = """\
remote: {{endpoints: {{openai: "{url}", anthropic: "{url}"}}}}
gateway: {{commit_timeout_ms: 30000}}
store: {{drain_interval_s: 3600}}
"""
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip
CAPTURED = {"", "/chat/completions", "/responses", "/messages"}
ORIGIN = re.compile(r"^http://[^/]*")
PREFIX = re.compile(r"^/v1/capture/(openai|anthropic)(?=/|$)")


@dataclass(frozen=True)
class Side:
    """Where a client is pointed. `through` is true before the gateway."""

    port: int
    openai: str
    anthropic: str
    through: bool


@dataclass(frozen=True)
class Row:
    """One recorded exchange, opened."""

    facts: dict[str, Any]
    input: Any
    output: Any

    def __getattr__(self, name: str) -> Any:
        return self.facts[name]


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


class Recorded:
    """The gateway process's lake."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def since(self, known: set[str], expected: int, *, wait_s: float = 60.0) -> list[Row]:
        """The exchanges that are not `known`, oldest first: `expected` of them, each once."""
        end = time.monotonic() + wait_s
        while len(found := self._new(known)) < expected and time.monotonic() < end:
            time.sleep(0.05)
        assert len(found) == expected, "exchanges lost, or recorded twice"
        return [self._open(row) for row in found]

    def ids(self) -> set[str]:
        """The exchanges there are."""
        self._drain()
        frame = self._workspace.lake.scan("default", "captures").select("pair_id").collect()
        return set(frame["pair_id"])

    def _new(self, known: set[str]) -> list[dict[str, Any]]:
        import polars as pl

        self._drain()
        scan = self._workspace.lake.scan("default", "captures")
        frame = scan.filter(~pl.col("pair_id").is_in(list(known))).collect()
        return frame.sort("pair_id").to_dicts()

    def _drain(self) -> None:
        report = drain(self._workspace.home.spool, self._workspace.lake)
        assert (report.failed, report.rejected, report.damaged) == (0, 0, 0), report.error

    def _open(self, row: dict[str, Any]) -> Row:
        opened = {}
        for name in ("input", "output"):
            opened[name] = None
            if row[name] is not None:
                place = {key: row[key] for key in ("namespace", "pair_id")}
                plain = self._workspace.vault.open(row[name], tenant="default", field=name, **place)
                opened[name] = orjson.loads(plain)
        facts = {name: value for name, value in row.items() if name not in opened}
        return Row(facts, **opened)


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
) -> Iterator[tuple[int, Recorded]]:
    """A gateway process, as `apprentice serve` starts it: its port, and its lake."""
    folder = tmp_path_factory.mktemp("conformance")
    config = folder / "apprentice.yaml"
    config.write_text(CONFIG.format(url=providers[1].url))
    ours = {"APPRENTICE_HOME": str(folder / "home"), "APPRENTICE_CONFIG": str(config)}
    environment = {**os.environ, **ours}
    command = [sys.executable, "-m", "apprentice_pipeline.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        try:
            workspace = Workspace.open(load_settings(environment))
            yield _port(process), Recorded(workspace)
            workspace.close()
        finally:
            process.terminate()


def _port(process: subprocess.Popen[bytes]) -> int:
    """The port that a starting gateway announces."""
    assert process.stderr is not None
    said = b""
    while (found := re.search(rb"http://127\.0\.0\.1:(\d+)", said)) is None:
        line = process.stderr.readline()
        assert line, f"the gateway did not start: {said.decode()}"
        said += line
    return int(found.group(1))


@pytest.fixture(scope="session")
def sides(
    providers: tuple[Provider, Provider], gateway: tuple[int, Recorded]
) -> Iterator[tuple[tuple[Tap, Side], tuple[Tap, Side]]]:
    direct, through = Tap(providers[0].port), Tap(gateway[0])
    base, before = f"http://127.0.0.1:{direct.port}", f"http://127.0.0.1:{through.port}/v1/capture"
    yield (
        (direct, Side(direct.port, f"{base}/v1", base, through=False)),
        (through, Side(through.port, f"{before}/openai/v1", f"{before}/anthropic", through=True)),
    )
    direct.close()
    through.close()


@pytest.fixture
def both(
    providers: tuple[Provider, Provider],
    sides: tuple[tuple[Tap, Side], tuple[Tap, Side]],
    recorded: Recorded,
) -> Both:
    """`both(call, table, alike=…, left=…, **settings)`: see the module.

    `table` and `settings` are the stand-in's. Not `alike`: the calls come in no certain order,
    or end when they end, so that only their values are compared. `left`: so many clients leave
    while a response is under way, which the provider must notice.
    """

    def run(
        call: Callable[[Side], Any],
        table: Any = None,
        *,
        alike: bool = True,
        left: int = 0,
        **settings: Any,
    ) -> Run:
        known, values, passed = recorded.ids(), [], []
        for provider, (tap, side) in zip(providers, sides, strict=True):
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
        same_requests(through, providers[1].seen)
        rows = recorded.since(known, sum(is_captured(seen.request) for seen in through))
        named = {seen.response.header("x-apprentice-pair-id") for seen in through if seen.response}
        assert named - {None} <= {row.pair_id for row in rows}
        return Run(values[1], through, rows)

    return run


@pytest.fixture
def recorded(gateway: tuple[int, Recorded]) -> Recorded:
    """The gateway's lake."""
    return gateway[1]


def is_captured(request: Request) -> bool:
    """Whether the gateway is to record a request."""
    path = PREFIX.sub("", ORIGIN.sub("", request.target)).partition("?")[0].removeprefix("/v1")
    return request.method == "POST" and not request.cut and path.rstrip("/") in CAPTURED


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
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        for spelling in (name, name.lower()):
            with contextlib.suppress(KeyError):
                monkeypatch.delenv(spelling)
