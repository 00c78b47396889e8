"""Frames between the embedded server and its clients, and where they meet."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.serving.frames import (
    MAX_FRAME,
    frame,
    private_folder,
    read_frame,
    socket_path,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


async def read_all(data: bytes) -> list[dict[str, Any]]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    messages = []
    while (message := await read_frame(reader)) is not None:
        messages.append(message)
    return messages


@given(st.lists(st.dictionaries(st.text(), JSON), max_size=4))
def test_messages_come_back_as_they_were_sent(messages: list[dict[str, Any]]) -> None:
    assert asyncio.run(read_all(b"".join(map(frame, messages)))) == messages


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (frame({"a": 1})[:-1], "within a frame"),
        (frame({"a": 1})[:2], "within a frame"),
        ((MAX_FRAME + 1).to_bytes(4, "big"), "exceeds"),
        (b"\0\0\0\2[]", "not a JSON object"),
        (b"\0\0\0\2{a", "not JSON"),
    ],
)
def test_bytes_that_are_no_frame_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(ServingError, match=complaint):
        asyncio.run(read_all(data))


def test_a_message_too_large_or_not_json_is_never_sent() -> None:
    with pytest.raises(ServingError, match="exceeds"):
        frame({"text": "x" * MAX_FRAME})
    with pytest.raises(ServingError, match="JSON has not"):
        frame({"text": object()})


def test_a_home_too_deep_for_a_socket_address_gets_a_short_private_place(tmp_path: Path) -> None:
    shallow, deep = Path("/srv/home/run"), tmp_path / ("x" * 100) / "run"
    assert socket_path(shallow) == shallow / "embedded.sock"
    short = socket_path(deep)
    assert len(os.fsencode(short)) <= 100
    assert short == socket_path(deep)
    assert short != socket_path(tmp_path / ("y" * 100) / "run")


def test_a_private_folder_is_ours_alone_and_no_link(tmp_path: Path) -> None:
    open_one = tmp_path / "open"
    open_one.mkdir(mode=0o755)
    assert private_folder(open_one).stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(open_one)
    with pytest.raises(ServingError, match="not a folder of ours"):
        private_folder(link)
