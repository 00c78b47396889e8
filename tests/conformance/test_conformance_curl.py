"""curl and bare sockets: HTTP that is legal and seldom seen, straight and through the gateway."""

from __future__ import annotations

import gzip
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.conformance.conftest import Both, Side

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
BODY = orjson.dumps(ASK)
STREAM = orjson.dumps({**ASK, "stream": True})
LONG = "a long answer that comes in more than one piece: é, 漢字, 😀 and so on, to its end"
JSON = ("-H", "content-type: application/json")
CHAT = "/chat/completions"


def curl(*arguments: str, given: bytes = b"", path: str = CHAT) -> Callable[[Side], Any]:
    """What curl prints of one request, and how many connections it made."""

    def call(side: Side) -> Any:
        count = ("-w", "\n%{http_code} %{num_connects}")
        command = ["curl", "-q", "-sS", "--noproxy", "*", *arguments, *count, side.openai + path]
        done = subprocess.run(command, input=given, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return call


def test_a_chunked_upload(both: Both) -> None:
    chunked = (*JSON, "-H", "transfer-encoding: chunked", "--data-binary", "@-")
    run = both(curl(*chunked, given=BODY), {"ping": "pong"})
    assert dict(run.seen[0].request.headers)["transfer-encoding"] == "chunked"
    assert (run.row.output, run.row.input["messages"]) == ("pong", ASK["messages"])


def test_an_upload_that_waits_for_leave_to_send(both: Both) -> None:
    large = orjson.dumps({**ASK, "user": "x" * 2_000_000})
    waiting = (*JSON, "-H", "expect: 100-continue", "--expect100-timeout", "60")
    run = both(curl(*waiting, "--data-binary", "@-", given=large), {"ping": "pong"})
    assert run.seen[0].response is not None
    assert run.seen[0].response.interim == [100]
    assert run.row.output == "pong"


def test_head_has_headers_and_no_body(both: Both) -> None:
    run = both(curl("--head", "-o", "/dev/null", path="/models"))
    assert run.value == b"\n200 1"
    assert run.seen[0].response is not None
    assert int(run.seen[0].response.header("content-length") or 0) > 0
    assert (run.seen[0].response.body, run.rows) == (b"", [])


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_a_compressed_response_passes_as_it_is_and_is_read(both: Both, body: bytes) -> None:
    asking = (*JSON, "-H", "accept-encoding: gzip", "--data-binary", "@-")
    run = both(curl(*asking, given=body), {"ping": LONG}, compress=True)
    response = run.seen[0].response
    assert response is not None
    assert response.header("content-encoding") == "gzip"
    assert gzip.decompress(response.body)
    assert (run.row.is_pair, run.row.output) == (True, LONG)


def test_a_compressed_request_passes_as_it_is_and_is_read(both: Both) -> None:
    small = gzip.compress(BODY, mtime=0)
    run = both(
        curl(*JSON, "-H", "content-encoding: gzip", "--data-binary", "@-", given=small),
        {"ping": "pong"},
    )
    assert (run.row.output, run.row.input["messages"]) == ("pong", ASK["messages"])


def test_one_connection_serves_many_requests(both: Both) -> None:
    def call(side: Side) -> Any:
        count = ("-w", "\n%{http_code} %{num_connects}\n")
        one = [*JSON, "--data-binary", BODY.decode(), *count, side.openai + CHAT]
        two = [*JSON, "--data-binary", STREAM.decode(), *count, side.openai + CHAT]
        three = ["--noproxy", "*", *count, side.openai + "/models"]
        rest = ["--next", "-sS", "--noproxy", "*"]
        command = ["curl", "-q", "-sS", "--noproxy", "*", *one, *rest, *two, *rest, *three]
        return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout

    run = both(call, {"ping": LONG})
    assert [run.value.count(b"200 %d" % number) for number in (1, 0)] == [1, 2]
    assert [row.output for row in run.rows] == [LONG, LONG]


def test_http_1_0(both: Both) -> None:
    for body in (BODY, STREAM):
        run = both(curl("--http1.0", *JSON, "--data-binary", "@-", given=body), {"ping": LONG})
        assert run.row.output == LONG


def test_repeated_empty_and_odd_headers(both: Both) -> None:
    odd = ("x-a: 1", "x-a: 2", "x-empty;", "X-MiXeD: Ünï", "cookie: a=1", "te: trailers")
    headers = [part for header in odd for part in ("-H", header)]
    run = both(curl(*JSON, *headers, "--data-binary", "@-", given=BODY), {"ping": "pong"})
    assert run.row.output == "pong"


def test_headers_that_a_connection_names_stay_on_that_connection(both: Both) -> None:
    """RFC 9110, section 7.6.1: the one thing in which a gateway may differ."""

    def call(side: Side) -> Any:
        named = ("-H", "connection: keep-alive, x-here-only") if side.through else ()
        only = ("-H", "x-here-only: 1") if side.through else ()
        return curl(*JSON, *named, *only, "--data-binary", "@-", given=BODY)(side)

    with pytest.raises(AssertionError, match="x-here-only"):
        both(call, {"ping": "pong"})


@pytest.mark.parametrize(
    "path",
    [
        "/models?after=a%2Fb&limit=%20&&flag",
        "/files/a%2Fb%20c",
        "/files/%C3%A9+~!$&'()*,;=:@",
        "/models/",
        "/chat/completions/",
        "//models",
    ],
)
def test_paths_and_queries_pass_as_they_are_written(both: Both, path: str) -> None:
    both(curl("--path-as-is", path=path))


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "QUERY"])
def test_other_methods_pass(both: Both, method: str) -> None:
    run = both(curl("-X", method, *JSON, "--data-binary", "@-", given=BODY))
    assert run.rows == []


def test_a_target_in_absolute_form(both: Both) -> None:
    def call(side: Side) -> Any:
        target = side.openai + "/models"
        return curl("--request-target", target, path="/models")(side)

    assert both(call).value.endswith(b"200 1")


def test_requests_sent_before_their_answers(both: Both) -> None:
    """Pipelining: the answers come whole and in the order of the requests."""

    def call(side: Side) -> Any:
        prefix = side.openai.partition(f":{side.port}")[2].encode()
        asked = b""
        for body, close in ((BODY, b""), (STREAM, b""), (BODY, b"connection: close\r\n")):
            asked += b"POST %s/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n%s" % (prefix, close)
            asked += b"content-length: %d\r\n\r\n%s" % (len(body), body)
        with socket.create_connection(("127.0.0.1", side.port), timeout=60) as connection:
            connection.sendall(asked)
            got = b""
            while piece := connection.recv(65_536):
                got += piece
        return got.count(b"HTTP/1.1 200 OK")

    run = both(call, {"ping": LONG})
    assert run.value == 3
    assert [row.output for row in run.rows] == [LONG] * 3


def test_a_body_in_single_bytes(both: Both) -> None:
    def call(side: Side) -> Any:
        path = side.openai.partition(f":{side.port}")[2].encode() + CHAT.encode()
        head = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n" % path
        framed = b"".join(b"1;ext=1\r\n%c\r\n" % byte for byte in BODY)
        whole = head + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
        with socket.create_connection(("127.0.0.1", side.port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(whole), 7):
                connection.sendall(whole[start : start + 7])
            got = b""
            while piece := connection.recv(65_536):
                got += piece
        return got.count(b"200 OK")

    run = both(call, {"ping": "pong"})
    assert (run.value, run.row.output) == (1, "pong")
