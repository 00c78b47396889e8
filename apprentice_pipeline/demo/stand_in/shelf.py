"""What the stand-in keeps for its callers: files and batches, in both providers' shapes.

In memory, for as long as the stand-in runs; a batch is done when it is made, its requests are
answered by an echo of their ids. Nothing here decides answers or speaks HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

JSON = b"application/json"
_JSON_LINES = b"application/x-jsonl"
_MOST = 1_000
_FILE_PART = re.compile(
    rb'name="file"; filename="(?P<name>[^"\r\n]*)"(?:\r\n[^\r\n]+)*\r\n\r\n(?P<body>.*?)\r\n--',
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A response about something kept; `status` 404 where there is no such thing."""

    body: bytes
    content_type: bytes = JSON
    status: int = 200


@dataclass(frozen=True, slots=True)
class _File:
    id: str
    name: str
    content: bytes
    made_s: int


_NOTHING = Kept(b"", status=404)


class Shelf:
    """Files and batches of one stand-in."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._batches: dict[str, tuple[dict[str, Any], bytes]] = {}

    def answer(
        self, method: str, path: str, *, anthropic: bool, body: bytes, identity: str, now_s: int
    ) -> Kept | None:
        """The response to a request below `/files` or a batch path, None for any other path."""
        if path.startswith("/files"):
            return self._answer_files(method, path, anthropic, body, identity, now_s)
        if path.startswith("/messages/batches"):
            return self._answer_batches(method, path, body, identity, now_s)
        return None

    def _answer_files(
        self, method: str, path: str, anthropic: bool, body: bytes, identity: str, now_s: int
    ) -> Kept:
        shape = _anthropic_file if anthropic else _openai_file
        _, _, name, *rest = [*path.split("/"), ""]
        if method == "POST" and not name:
            return self._put(body, f"file_{identity}", now_s, shape)
        if method in {"GET", "HEAD"} and not name:
            return _listed([shape(file) for file in self._files.values()], anthropic)
        file = self._files.get(name)
        if file is None:
            return _NOTHING
        if method == "DELETE":
            del self._files[name]
            gone = {"type": "file_deleted"} if anthropic else {"object": "file", "deleted": True}
            return Kept(orjson.dumps({"id": name, **gone}))
        if rest[0] == "content":
            return Kept(file.content, b"application/octet-stream")
        return Kept(orjson.dumps(shape(file)))

    def _put(
        self, body: bytes, identity: str, now_s: int, shape: Callable[[_File], dict[str, Any]]
    ) -> Kept:
        found = _FILE_PART.search(body)
        if found is None or len(self._files) >= _MOST:
            return Kept(b"", status=400)
        name = found["name"].decode("utf-8", "replace")
        file = self._files[identity] = _File(identity, name, found["body"], now_s)
        return Kept(orjson.dumps(shape(file)))

    def _answer_batches(
        self, method: str, path: str, body: bytes, identity: str, now_s: int
    ) -> Kept:
        _, _, _, name, *rest = [*path.split("/"), "", ""]
        if method == "POST" and not name:
            return self._make_batch(body, f"msgbatch_{identity}", now_s)
        if not name:
            return _listed([batch for batch, _ in self._batches.values()], anthropic=True)
        if name not in self._batches:
            return _NOTHING
        batch, results = self._batches[name]
        if method == "DELETE":
            del self._batches[name]
            return Kept(orjson.dumps({"id": name, "type": "message_batch_deleted"}))
        return Kept(results, _JSON_LINES) if rest[0] == "results" else Kept(orjson.dumps(batch))

    def _make_batch(self, body: bytes, identity: str, now_s: int) -> Kept:
        try:
            asked = [str(each["custom_id"]) for each in orjson.loads(body)["requests"]]
        except (ValueError, KeyError, TypeError):
            return Kept(b"", status=400)
        if len(self._batches) >= _MOST:
            return Kept(b"", status=400)
        batch, results = _batch(identity, len(asked), now_s), map(_result, asked)
        self._batches[identity] = batch, b"\n".join(results)
        return Kept(orjson.dumps(batch))


def _batch(identity: str, succeeded: int, now_s: int) -> dict[str, Any]:
    counts = {"processing": 0, "succeeded": succeeded, "errored": 0, "canceled": 0, "expired": 0}
    return {
        "id": identity,
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": counts,
        "created_at": _time(now_s),
        "ended_at": _time(now_s),
        "expires_at": _time(now_s + 86_400),
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"/v1/messages/batches/{identity}/results",
    }


def _result(custom_id: str) -> bytes:
    message = {
        "id": f"msg_{custom_id}",
        "type": "message",
        "role": "assistant",
        "model": "stand-in",
        "content": [{"type": "text", "text": custom_id}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    result = {"type": "succeeded", "message": message}
    return orjson.dumps({"custom_id": custom_id, "result": result})


def _listed(data: list[dict[str, Any]], anthropic: bool) -> Kept:
    ends = {
        name: data[at]["id"] if data else None for name, at in (("first_id", 0), ("last_id", -1))
    }
    kind = {} if anthropic else {"object": "list"}
    return Kept(orjson.dumps({**kind, "data": data, "has_more": False, **ends}))


def _openai_file(file: _File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.content),
        "created_at": file.made_s,
        "filename": file.name,
        "purpose": "user_data",
        "status": "processed",
    }


def _anthropic_file(file: _File) -> dict[str, Any]:
    return {
        "id": file.id,
        "type": "file",
        "filename": file.name,
        "mime_type": "text/plain",
        "size_bytes": len(file.content),
        "created_at": _time(file.made_s),
        "downloadable": True,
    }


def _time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
