"""Large bodies pass through a worker without staying in it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
IMAGE_BYTES = 50_000_000
PIECE = b"iVBORw0KGgo" * 100_000
BEFORE = (
    b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"image_url",'
    b'"image_url":{"url":"data:image/png;base64,'
)
AFTER = b'"}}]}]}'


def image_call() -> Iterator[bytes]:
    """A chat with an image of 50 MB, in pieces: the test itself holds none of it."""
    yield BEFORE
    left = IMAGE_BYTES
    while left:
        piece = PIECE[:left]
        left -= len(piece)
        yield piece
    yield AFTER


LENGTH = len(BEFORE) + IMAGE_BYTES + len(AFTER)


def ask(url: str) -> int:
    """One call; returns its status."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers = {
        "content-type": "application/json",
        "content-length": str(LENGTH),
        "x-behave": "swallow",
    }
    connection.request("POST", f"/v1/capture/openai{CHAT}", image_call(), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def resident(pid: int) -> int:
    """The process's resident memory, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


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
