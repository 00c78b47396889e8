"""Customers: threads that ask through the gateway and note which answers they got whole.

Belongs here: requests of both providers, plain and streamed, each with an id of its own in the
prompt; reading answers as an SDK would. Does not: the gateway, what was kept.
An answer is delivered when its client has all of it: every byte of a body, or a stream's
terminal event, even if the connection dies right after.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

ASKED: Final = "chaos"
"""The word before a prompt's id."""
_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask. `terminal` ends a stream; empty: the answer is one body."""

    path: str
    model: str
    terminal: bytes = b""


FORMS: Final = (
    Form("/v1/capture/openai/v1/chat/completions", "gpt-4o"),
    Form("/v1/capture/openai/v1/chat/completions", "gpt-4o", b"data: [DONE]\n\n"),
    Form("/v1/capture/anthropic/v1/messages", "claude-haiku-4-5-20251001"),
    Form("/v1/capture/anthropic/v1/messages", "claude-haiku-4-5-20251001", b"message_stop"),
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """One answer that its client has whole: the id in its prompt, the id of its pair."""

    asked: str
    pair_id: str
    streamed: bool


class Customers:
    """`connections` threads that ask until told to stop; `address` gives the gateway's port now,
    0 while there is none.

    A connection is used again until it breaks. A call that fails is never repeated: each id goes
    out once, so a second row of it would be a double of the gateway's own making.
    """

    def __init__(self, address: Callable[[], int], connections: int) -> None:
        self.delivered: list[Delivered] = []
        self.cut = 0
        """Calls that got no answer, or only a part of it."""
        self.refused = 0
        """Answers with another status than 200."""
        self._address = address
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(connections)]

    @contextlib.contextmanager
    def asking(self) -> Iterator[Customers]:
        """Asks while the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def wait_for(self, more: int, limit_s: float) -> bool:
        """Whether `more` further answers were delivered within the limit."""
        goal, end = len(self.delivered) + more, time.monotonic() + limit_s
        while len(self.delivered) < goal:
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_S / 4)
        return True

    def _ask_on(self) -> None:
        while not self._stopping.wait(_PAUSE_S):
            port = self._address()
            if not port:
                continue
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
            with contextlib.closing(connection):
                while not self._stopping.is_set() and self._address() == port:
                    if not self._ask(connection):
                        break

    def _ask(self, connection: http.client.HTTPConnection) -> bool:
        """One call; whether the connection is still good."""
        number = next(self._numbers)
        form, asked = FORMS[number % len(FORMS)], f"{ASKED}-{number:08d}"
        try:
            connection.request("POST", form.path, _body(form, asked), _HEADERS)
            response = connection.getresponse()
            if response.status != 200:
                response.read()
                self._count(refused=1)
                return True
            pair_id = response.getheader("x-apprentice-pair-id") or ""
            return self._read(response, Delivered(asked, pair_id, bool(form.terminal)), form)
        except (OSError, http.client.HTTPException):
            self._count(cut=1)
            return False

    def _read(self, response: http.client.HTTPResponse, delivered: Delivered, form: Form) -> bool:
        """Reads an answer to its end; notes it the moment that it is whole."""
        if not form.terminal:
            response.read()
            self.delivered.append(delivered)
            return True
        seen = b""
        while piece := response.read1(1 << 16):
            whole = form.terminal in seen
            seen += piece
            if form.terminal in seen and not whole:
                self.delivered.append(delivered)
        if form.terminal not in seen:
            raise http.client.IncompleteRead(seen)
        return True

    def _count(self, cut: int = 0, refused: int = 0) -> None:
        with self._lock:
            self.cut += cut
            self.refused += refused


_HEADERS: Final = {
    "content-type": "application/json",
    "authorization": "Bearer chaos",
    "anthropic-version": "2023-06-01",
}


def _body(form: Form, asked: str) -> bytes:
    return json.dumps(
        {
            "model": form.model,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"Ticket {asked}: where is my parcel?"}],
            **({"stream": True} if form.terminal else {}),
        }
    ).encode()
