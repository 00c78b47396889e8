"""Alerts posted to a webhook: kinds, ids and counts, as JSON.

Belongs here: which alerts are new, one request for all of them, trying again. Does not: raising
alerts (`Tally`, `routing`, the stages: all write them into the state, where this finds them), the
thread this runs in (`server`).
Promise: no call ever waits for a webhook, and none is lost to one that is down: alerts stay in
the state, and what is new is posted once it answers, newest first where they are too many. One
kind of one stream is one alert an hour. Neither messages nor content nor the address (it may
hold a token) go anywhere else.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import date_of, now_us, rfc3339
from apprentice_pipeline.store.journal import Alert
from apprentice_pipeline.store.state import State

POST_S = 1.0
ANSWER_S = 10.0
MOST_AT_ONCE = 100
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 300.0
_LATE_US = 120_000_000
"""An alert may appear this long after the time it carries: another process wrote it."""


class Webhook:
    """Posts what is new. One thread; `look` is called again and again."""

    def __init__(
        self,
        address: str,
        state: State,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._state = state
        self._file = folder / "alerts-posted.json"
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._since_us, self._posted = _read(self._file)

    def look(self) -> None:
        """Posts the alerts that are new, in one request; after a failure waits longer each time.

        A failure is counted (`webhook_failures`) and, the first of a row, written to stderr.
        Raises: StoreError.
        """
        if self._clock() < self._not_before:
            return
        fresh = self._fresh()
        if not fresh:
            return
        why = _post(self._address, document(fresh))
        if why:
            self._failed(why)
            return
        self._pause_s = FIRST_PAUSE_S
        self._remember(fresh)
        self._count("webhook_posts")

    def _fresh(self) -> list[Alert]:
        since_us = self._since_us - _LATE_US
        found = self._state.alerts(since_us=since_us, limit=MOST_AT_ONCE)
        return [a for a in found if a.first_at_us >= since_us and a.id not in self._posted]

    def _failed(self, why: str) -> None:
        if self._pause_s == FIRST_PAUSE_S:
            sys.stderr.write(f"apprentice gateway: alerts cannot be posted: {why}; trying on\n")
        self._not_before = self._clock() + self._pause_s
        self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)
        self._count("webhook_failures")

    def _remember(self, alerts: Sequence[Alert]) -> None:
        self._since_us = max(self._since_us, *(alert.first_at_us for alert in alerts))
        kept_us = self._since_us - _LATE_US
        self._posted |= {alert.id: alert.first_at_us for alert in alerts}
        self._posted = {place: at for place, at in self._posted.items() if at >= kept_us}
        with contextlib.suppress(OSError):  # a full disk repeats an alert after a restart
            self._file.write_text(json.dumps({"since_us": self._since_us, "posted": self._posted}))

    def _count(self, name: str) -> None:
        with contextlib.suppress(StoreError):
            self._state.count("", "", date_of(now_us()), {name: 1})


def document(alerts: Sequence[Alert]) -> dict[str, Any]:
    """What is posted. `text` is a line for chat services that show one."""
    kinds = sorted({alert.kind for alert in alerts})
    return {
        "text": f"apprentice: {len(alerts)} new alerts: {', '.join(kinds)}",
        "alerts": [
            {
                "id": alert.id,
                "kind": alert.kind,
                "tenant": alert.tenant,
                "namespace": alert.namespace,
                "count": alert.count,
                "first_at": rfc3339(alert.first_at_us),
                "last_at": rfc3339(alert.last_at_us),
            }
            for alert in alerts
        ],
    }


def _post(address: str, body: dict[str, Any]) -> str:
    """Why it failed, "" when it did not. Redirects are failures: they would lead elsewhere."""
    try:
        answer = httpx.post(address, json=body, timeout=ANSWER_S, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return type(error).__name__
    return "" if answer.is_success else f"status {answer.status_code}"


def _read(file: Path) -> tuple[int, dict[str, int]]:
    """Where posting left off; where nothing tells, with what is new from now on."""
    try:
        kept = json.loads(file.read_text())
        return int(kept["since_us"]), {str(k): int(v) for k, v in kept["posted"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return now_us(), {}
