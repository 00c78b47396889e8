"""Customers: threads that ask through the gateway and note which answers they got whole.

Belongs here: connections, reading answers as an SDK would. Does not: what is asked (`forms`), the
gateway, what was kept.
An answer is delivered when its client has all of it: every byte of a body, or a stream's
terminal event, even if the connection dies right after.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from chaos.forms import Asking, Watch, asking

_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Delivered:
    """One answer that its client has whole: the id in its prompt, the id of its pair, how it was
    asked for, the time from its request to its end."""

    asked: str
    pair_id: str
    streamed: bool
    form: str = ""
    manner: str = ""
    seconds: float = 0.0


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
        call, began = asking(next(self._numbers)), time.monotonic()
        try:
            connection.request(
                "POST",
                call.form.path,
                call.body(),
                call.headers,
                encode_chunked=call.manner == "chunked",
            )
            response = connection.getresponse()
            if response.status != 200:
                response.read()
                self._count(refused=1)
                return True
            self._read(response, call, began)
        except (OSError, http.client.HTTPException):
            self._count(cut=1)
            return False
        return True

    def _read(self, response: http.client.HTTPResponse, call: Asking, began: float) -> None:
        """Reads an answer to its end; notes it the moment that it is whole."""
        if not call.form.terminal:
            response.read()
            self._note(response, call, began)
            return
        watch = Watch(call.form.terminal, response.getheader("content-encoding") or "")
        while piece := response.read1(1 << 16):
            if watch.feed(piece):
                self._note(response, call, began)
        if not watch.ended:
            raise http.client.IncompleteRead(b"")

    def _note(self, response: http.client.HTTPResponse, call: Asking, began: float) -> None:
        self.delivered.append(
            Delivered(
                asked=call.asked,
                pair_id=response.getheader("x-apprentice-pair-id") or "",
                streamed=bool(call.form.terminal),
                form=call.form.name,
                manner=call.manner,
                seconds=time.monotonic() - began,
            )
        )

    def _count(self, cut: int = 0, refused: int = 0) -> None:
        with self._lock:
            self.cut += cut
            self.refused += refused
