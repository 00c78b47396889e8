"""What the router learns, written down: comparisons, the controller's state, counters, alerts.

Belongs here: order, batching and retries of those writes, and events as alerts. Does not:
scores, decisions.

Promises: a comparison is in the spool before it is folded into the controller; it is folded
once by this process, in order of recording (`control` ignores one it is told twice); many
arrive in one transaction; while the state database is out of reach they wait, boundedly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from apprentice_pipeline.control import phases
from apprentice_pipeline.control.events import (
    CertificateChanged,
    CoachingChanged,
    DriftDetected,
    Event,
    Phase,
    PhaseChanged,
    RecalibrationDue,
    SequenceRestarted,
    ShiftSuspected,
)
from apprentice_pipeline.control.state import Comparison, ControlState, Policy
from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.records import ComparisonRow, date_of, now_us
from apprentice_pipeline.routing.champion import control_of, policy_of
from apprentice_pipeline.store.spool import RecordSink
from apprentice_pipeline.store.workspace import Workspace

WRITE_EVERY_S = 0.2
RETRY_AFTER_S = 2.0
MOST_WAITING = 10_000
MOST_FOLDED = 500
MOST_ALERTS = 100
SAY_AGAIN_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A local answer's confidence, without a label."""

    confidence: float
    escalated: bool
    at_us: int


_Owner = tuple[str, str]
_Evidence = Comparison | Watched


class Recorder:
    """Writes for one router, from one event loop; the database work runs in threads."""

    def __init__(
        self,
        workspace: Workspace,
        spool: RecordSink,
        control_changed: Callable[[str, str, ControlState], None],
    ) -> None:
        self._workspace = workspace
        self._spool = spool
        self._control_changed = control_changed
        self._evidence: defaultdict[_Owner, deque[_Evidence]] = defaultdict(
            lambda: deque(maxlen=MOST_WAITING)
        )
        self._counts: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        self._alerts: deque[tuple[str, str, str, str]] = deque(maxlen=MOST_ALERTS)
        self._said: dict[tuple[str, str, str, str], float] = {}
        self._writing: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self.failures = 0

    async def compared(self, tenant: str, row: ComparisonRow) -> None:
        """Record a comparison. Raises: StoreError when the spool cannot take it."""
        await self._spool.commit(row, tenant=tenant)
        self._evidence[tenant, row.namespace].append(_comparison(row))
        self._wake()

    def watch(self, tenant: str, namespace: str, confidence: float, escalated: bool) -> None:
        """Note a local answer for the label-free monitor."""
        self._evidence[tenant, namespace].append(Watched(confidence, escalated, now_us()))
        self._wake()

    def count(self, tenant: str, namespace: str, **increments: float) -> None:
        """Add to the day's counters; they are written in a moment."""
        self._counts[tenant, namespace, date_of(now_us())].update(increments)
        self._wake()

    def announce(self, tenant: str, namespace: str, events: tuple[Event, ...]) -> None:
        """Events as alerts. Runs in a thread. Raises: StoreError."""
        for event in events:
            kind, message = described(event)
            if kind:
                self._workspace.state.add_alert(
                    tenant, namespace, kind, message, now_us=event.at_us
                )

    def alert(self, tenant: str, namespace: str, kind: str, message: str) -> None:
        """Raise an alert in a moment, at most once in `SAY_AGAIN_S` for the same message."""
        said = self._said.get((tenant, namespace, kind, message))
        if said is None or time.monotonic() - said > SAY_AGAIN_S:
            self._said[tenant, namespace, kind, message] = time.monotonic()
            self._alerts.append((tenant, namespace, kind, message))
            self._wake()

    async def flush(self) -> None:
        """Write everything that waits, now; what fails stays and is tried again later."""
        async with self._one_at_a_time:
            while self._alerts:
                alert = self._alerts[0]
                await asyncio.to_thread(self._workspace.state.add_alert, *alert, now_us=now_us())
                self._alerts.popleft()
            for owner in list(self._evidence):
                while self._evidence.get(owner):
                    await self._fold(owner)
                self._evidence.pop(owner, None)
            for key in list(self._counts):
                increments = self._counts.pop(key)
                try:
                    await asyncio.to_thread(self._workspace.state.count, *key, dict(increments))
                except StoreError:
                    self._counts[key].update(increments)
                    raise

    async def close(self) -> None:
        """Write what waits, and stop; what cannot be written now is given up and counted."""
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        try:
            await self.flush()
        except StoreError:
            self.failures += 1

    def _wake(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        await asyncio.sleep(WRITE_EVERY_S)
        while self._evidence or self._counts or self._alerts:
            try:
                await self.flush()
            except StoreError:
                self.failures += 1
                await asyncio.sleep(RETRY_AFTER_S)

    async def _fold(self, owner: _Owner) -> None:
        waiting = self._evidence[owner]
        batch = [waiting.popleft() for _ in range(min(len(waiting), MOST_FOLDED))]
        policy = policy_of(self._workspace.config, owner[1])
        try:
            control = await asyncio.to_thread(self._fold_now, owner, batch, policy)
        except StoreError:
            waiting.extendleft(reversed(batch))
            raise
        self._control_changed(*owner, control)

    def _fold_now(self, owner: _Owner, batch: list[_Evidence], policy: Policy) -> ControlState:
        happened: list[Event] = []

        def change(text: str | None) -> str:
            happened.clear()
            control = control_of(text)
            for evidence in batch:
                control, events = _folded(control, evidence, policy)
                happened.extend(events)
            return control.to_json()

        control = control_of(self._workspace.state.update_control(*owner, change))
        self.announce(*owner, tuple(happened))
        return control


def _folded(control: ControlState, evidence: _Evidence, policy: Policy) -> phases.Step:
    if isinstance(evidence, Comparison):
        return phases.observe(control, evidence, policy)
    return phases.watch(control, evidence.confidence, evidence.escalated, policy, evidence.at_us)


def _comparison(row: ComparisonRow) -> Comparison:
    return Comparison(
        pair_id=row.pair_id,
        confidence=row.confidence,
        score=row.score,
        sampled=row.sampled,
        served=row.served,
        tau=row.tau,
        pi=row.pi,
        at_us=row.created_at_us,
        champion_version=row.version,
    )


def described(event: Event) -> tuple[str, str]:
    """An event as an alert's kind and message; an empty kind is not worth one."""
    match event:
        case PhaseChanged(_, before, after, why):
            kind = "suspended" if after is Phase.SUSPENDED else f"phase_{after.value}"
            return kind, f"{before.value} to {after.value}: {why}"
        case DriftDetected(_, kind, change_point, n, size):
            return str(kind), (
                f"agreement fell by {size:.3f} about {n - change_point} sampled comparisons ago"
            )
        case ShiftSuspected():
            return "shift_suspected", "confidences changed; a window is sampled in full"
        case CoachingChanged(_, on, why):
            return ("coaching", f"coaching began: {why}") if on else ("", "")
        case CertificateChanged(_, None):
            return "no_certificate", "no confidence threshold qualifies; nothing is served locally"
        case RecalibrationDue(_, rows, _):
            return "recalibration_due", f"{rows} calibration rows: certify the threshold again"
        case SequenceRestarted(_, why):
            return "bounds_restarted", f"the bounds began anew: {why}"
    return "", ""
