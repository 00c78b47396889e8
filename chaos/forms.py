"""The ways to ask: every captured endpoint, whole and streamed, in every framing and coding.

Belongs here: requests as bytes with an id of their own in the prompt, and what tells that an
answer is whole. Does not: connections (`load`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

ASKED: Final = "chaos"
"""The word before a prompt's id."""
MANNERS: Final = ("plain", "chunked", "gzip request", "gzip answer")
"""A request's body with its length; in chunks; compressed; its answer compressed."""
_GEMINI: Final = "/v1/capture/gemini/v1beta/models/gemini-2.5-flash:"


@dataclass(frozen=True, slots=True)
class Form:
    """One endpoint. `terminal` begins the end of a stream; empty: the answer is one body."""

    name: str
    path: str
    body: Callable[[str], dict[str, Any]]
    terminal: bytes = b""


def _chat(prompt: str) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}


def _message(prompt: str) -> dict[str, Any]:
    return {**_chat(prompt), "model": "claude-haiku-4-5-20251001", "max_tokens": 64}


def _response(prompt: str) -> dict[str, Any]:
    return {"model": "gpt-4o", "input": prompt}


def _generation(prompt: str) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}


def _streamed(body: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    return lambda prompt: {**body(prompt), "stream": True}


_CHAT = "/v1/capture/openai/v1/chat/completions"
_MESSAGES = "/v1/capture/anthropic/v1/messages"
_RESPONSES = "/v1/capture/openai/v1/responses"
FORMS: Final = (
    Form("chat", _CHAT, _chat),
    Form("chat stream", _CHAT, _streamed(_chat), b"data: [DONE]\n\n"),
    Form("message", _MESSAGES, _message),
    Form("message stream", _MESSAGES, _streamed(_message), b"message_stop"),
    Form("response", _RESPONSES, _response),
    Form("response stream", _RESPONSES, _streamed(_response), b"response.completed"),
    Form("generation", f"{_GEMINI}generateContent", _generation),
    Form(
        "generation stream",
        f"{_GEMINI}streamGenerateContent?alt=sse",
        _generation,
        b'"finishReason"',
    ),
    Form("generation array", f"{_GEMINI}streamGenerateContent", _generation, b'"finishReason"'),
)


@dataclass(frozen=True, slots=True)
class Asking:
    """One call, ready to go out."""

    form: Form
    manner: str
    asked: str

    @property
    def headers(self) -> dict[str, str]:
        """With a key of each provider's kind."""
        coding = {
            "chunked": {"transfer-encoding": "chunked"},
            "gzip request": {"content-encoding": "gzip"},
            "gzip answer": {"accept-encoding": "gzip"},
        }
        return {**_HEADERS, **coding.get(self.manner, {})}

    def body(self) -> bytes | Iterator[bytes]:
        """The body; in pieces where it goes out in chunks."""
        prompt = f"Ticket {self.asked}: where is my parcel?"
        whole = json.dumps(self.form.body(prompt)).encode()
        if self.manner == "gzip request":
            return gzip.compress(whole, mtime=0)
        if self.manner == "chunked":
            return iter((whole[:40], whole[40:]))
        return whole


def asking(number: int) -> Asking:
    """The call of this number: every form in every manner, in turn."""
    turn, form = divmod(number, len(FORMS))
    return Asking(FORMS[form], MANNERS[turn % len(MANNERS)], f"{ASKED}-{number:08d}")


class Watch:
    """Follows a stream as its client reads it. `ended` once its terminal has come."""

    def __init__(self, terminal: bytes, coding: str) -> None:
        self.ended = False
        self._terminal = terminal
        self._seen = b""
        self._inflate = zlib.decompressobj(wbits=31) if coding == "gzip" else None

    def feed(self, piece: bytes) -> bool:
        """Whether the stream's end has come with this piece."""
        self._seen += piece if self._inflate is None else self._inflate.decompress(piece)
        was, self.ended = self.ended, self._terminal in self._seen
        return self.ended and not was


_HEADERS: Final = {
    "content-type": "application/json",
    "authorization": "Bearer chaos",
    "anthropic-version": "2023-06-01",
}
