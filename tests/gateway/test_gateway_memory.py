"""Large bodies pass through a worker without staying in it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
IMAGE_BYTES = 50_000_000
PIECE = b"iVBORw0KGgo" * 100_000
AT_ONCE = 6
BEFORE = (
    b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"image_url",'
    b'"image_url":{"url":"data:image/png;base64,'
)
AFTER = b'"}}]}]}'


def image_call(turn: int = 0) -> Iterator[bytes]:
    """A chat with an image of 50 MB, in pieces: the test itself holds none of it. Images of
    different turns are different."""
    yield BEFORE
    left, turned = IMAGE_BYTES, PIECE[turn:] + PIECE[:turn]
    while left:
        piece = turned[:left]
        left -= len(piece)
        yield piece
    yield AFTER


LENGTH = len(BEFORE) + IMAGE_BYTES + len(AFTER)


def ask(url: str, turn: int = 0, *, chunked: bool = False) -> int:
    """One call; returns its status."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    length = {} if chunked else {"content-length": str(LENGTH)}
    headers = {"content-type": "application/json", "x-behave": "swallow", **length}
    connection.request("POST", f"/v1/capture/openai{CHAT}", image_call(turn), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def resident(pid: int) -> int:
    """The process's resident memory, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], int]]:
    """The most memory that a process had while the block ran, looked at all the time."""
    done, most = threading.Event(), resident(pid)

    def look() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, resident(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield lambda: most
    finally:
        done.set()
        looking.join()


@pytest.mark.parametrize(
    ("chunked", "room"),
    [(False, 20_000_000), (True, 2 * AT_ONCE * 8_000_000)],
    ids=["length", "chunked"],
)
def test_images_of_50_mb_at_once_pass_byte_for_byte_and_none_is_held(
    serve: Any, provider: Any, chunked: bool, room: int
) -> None:
    """Above `capture.max_bytes` by its default, 8 MB: six images are 300 MB. One of a length that
    was not told is read up to that limit before it is passed on."""
    command = serve()
    (worker,) = command.workers()
    assert ask(command.url) == 200
    at_rest = resident(worker)
    provider.digests.clear()
    with watched(worker) as most, ThreadPoolExecutor(AT_ONCE) as pool:
        calls = [pool.submit(ask, command.url, turn, chunked=chunked) for turn in range(AT_ONCE)]
        assert [call.result() for call in calls] == [200] * AT_ONCE
        grown = most() - at_rest
    images = (image_call(turn) for turn in range(AT_ONCE))
    assert sorted(provider.digests) == sorted(digest_of(image) for image in images)
    assert grown <= room, grown


def digest_of(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("max_bytes", "event", "calls", "room"),
    [(8_000_000, "oversize", 8, 20_000_000), (60_000_000, "pairs", 5, 5 * LENGTH)],
    ids=["not-captured", "captured"],
)
def test_images_of_50_mb_leave_no_memory_behind(
    serve: Any, provider: Any, max_bytes: int, event: str, calls: int, room: int
) -> None:
    """Forwarded and counted beyond `capture.max_bytes`; captured below it, one at a time.

    A captured body is held a few times over on its way; one that stayed from each call would
    pass the bound by the fifth.
    """
    command = serve(capture={"max_bytes": max_bytes}, gateway={"commit_timeout_ms": 30_000})
    (worker,) = command.workers()
    at_rest, sizes = resident(worker), []
    for _ in range(calls):
        assert ask(command.url) == 200
        sizes.append(resident(worker))
    assert provider.bytes_seen == calls * LENGTH
    assert max(sizes) <= at_rest + room, (at_rest, sizes)
    connection = http.client.HTTPConnection(command.url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/metrics")
    counted = connection.getresponse().read().decode()
    connection.close()
    assert f'apprentice_events_total{{event="{event}"}} {calls}.0' in counted
