"""How the embedded server and its clients talk: length-prefixed JSON over a Unix socket.

Belongs here: frames, limits, where the socket lies. Does not: what the messages mean.
A frame is a 4-byte big-endian length and that many bytes of JSON (one object).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import orjson

from apprentice_pipeline.errors import ServingError

MAX_FRAME = 16 * 1024 * 1024
SOCKET_NAME = "embedded.sock"
_LENGTH = struct.Struct(">I")
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 elsewhere


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message, None when the other side closed between two frames.

    Raises: ServingError when the frame is cut short, too large or not a JSON object.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME:
            raise ServingError(f"a frame of {length} bytes exceeds {MAX_FRAME}")
        message = orjson.loads(await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise ServingError("the connection ended within a frame") from None
    except orjson.JSONDecodeError:
        raise ServingError("a frame is not JSON") from None
    if not isinstance(message, dict):
        raise ServingError("a frame is not a JSON object")
    return message


def frame(message: dict[str, Any]) -> bytes:
    """The bytes of one message.

    Raises: ServingError when it is too large or not JSON.
    """
    try:
        body = orjson.dumps(message)
    except TypeError:
        raise ServingError("the message holds values that JSON has not") from None
    if len(body) > MAX_FRAME:
        raise ServingError(f"a frame of {len(body)} bytes exceeds {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def socket_path(run: Path) -> Path:
    """The socket of the home whose run folder this is; the same answer in every process.

    Where the path would be too long for a socket address, a private folder under the system's
    temporary one, named by a hash, holds it instead. Nothing is created.
    """
    direct = run.absolute() / SOCKET_NAME
    if len(os.fsencode(direct)) <= _MAX_SOCKET_PATH:
        return direct
    digest = hashlib.sha256(os.fsencode(run.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"apprentice-{os.getuid()}-{digest}" / SOCKET_NAME


def private_folder(folder: Path) -> Path:
    """`folder`, made if need be, readable by its owner only.

    Raises: ServingError when somebody else owns it or it is a link.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise ServingError(
            f"{folder} is not a folder of ours", remedy="remove it, or choose another home"
        )
    if stat.S_IMODE(facts.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder
