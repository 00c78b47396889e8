"""What is sent and answered in every run, as HTTP bytes.

Belongs here: one request of 1.6 KB, its plain answer of 1.3 KB, its streamed answer. Does not:
sockets.
"""

from __future__ import annotations

import json
from typing import Final

PATH: Final = "/chat/completions"
_MODEL: Final = "gpt-4o"
_QUESTION: Final = "Which of the fifteen kinds is this request of? " * 32
_ANSWER: Final = "the kind of this request is a refund, and its priority is high " * 16
_USAGE: Final = {"prompt_tokens": 320, "completion_tokens": 200, "total_tokens": 520}


def request(address: str, path: str, headers: dict[str, str], *, streamed: bool) -> bytes:
    """One HTTP/1.1 request for `path`."""
    body: dict[str, object] = {
        "model": _MODEL,
        "messages": [{"role": "user", "content": _QUESTION}],
        "temperature": 0,
    }
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    lines = {
        "Host": address,
        "Content-Type": "application/json",
        "Authorization": "Bearer sk-bench",
        "Content-Length": str(len(data)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


def plain_answer() -> bytes:
    """The whole HTTP response to an unstreamed request."""
    message = {"role": "assistant", "content": _ANSWER, "refusal": None}
    body = _envelope("chat.completion") | {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": _USAGE,
    }
    data = json.dumps(body).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + data


def streamed_answer(events: int = 16) -> tuple[bytes, ...]:
    """The parts of the response to a streamed request: its head, then one event each."""
    words = _ANSWER.split(" ")
    each = -(-len(words) // events)
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    deltas = [" ".join(words[start : start + each]) for start in range(0, len(words), each)]
    choices: list[dict[str, object]] = [
        {"index": 0, "delta": {"content": delta}, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    kind = _envelope("chat.completion.chunk")
    documents = [kind | {"choices": [choice], "usage": None} for choice in choices]
    documents.append(kind | {"choices": [], "usage": _USAGE})
    parts = [f"data: {json.dumps(document)}\n\n".encode() for document in documents]
    return (head, *map(_chunk, parts), _chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")


def _envelope(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-bench", "object": kind, "created": 1, "model": _MODEL}


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
