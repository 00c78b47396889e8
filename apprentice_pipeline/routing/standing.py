"""Where a namespace stands: its champion, the controller's state, and what follows from both.

Belongs here: reading them together, keeping them for a moment. Does not: decisions.

Promises: a namespace without a champion costs a dictionary look-up; what is used is never
older than twice the poll interval, however quiet the namespace was; a change made by this
process is seen at once (`replace_control`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from apprentice_pipeline.config import Task
from apprentice_pipeline.control.eligibility import ChampionFacts
from apprentice_pipeline.control.events import Event
from apprentice_pipeline.control.state import ControlState, Policy
from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.champion import (
    ServingFacts,
    bring_into_force,
    champion_evaluator,
    control_of,
    in_force,
    policy_of,
)
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.evaluators import Embed, Evaluator

Announce = Callable[[str, str, tuple[Event, ...]], None]
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """One namespace with a champion in force, ready to decide on a request."""

    champion: ChampionRecord
    facts: ServingFacts
    eligibility: ChampionFacts
    control: ControlState
    policy: Policy
    task: Task | None
    evaluator: Evaluator
    draw_key: bytes


class Standings:
    """The standings of all namespaces this process meets, each read at most once an interval."""

    def __init__(self, workspace: Workspace, embed: Embed | None, announce: Announce) -> None:
        self._workspace = workspace
        self._embed = embed
        self._announce = announce
        self._fresh_s = workspace.config.serving.registry_poll_s
        self._held: dict[_Key, tuple[float, Standing | None]] = {}
        self._replaced: dict[_Key, float] = {}
        self._reading: dict[_Key, asyncio.Task[Standing | None]] = {}

    async def get(self, tenant: str, namespace: str) -> Standing | None:
        """The standing, None without a champion.

        Raises: StoreError, VaultError, ServingError when it cannot be read (see `_read`).
        """
        key = (tenant, namespace)
        held = self._held.get(key)
        if held is not None:
            age_s = time.monotonic() - held[0]
            if age_s <= self._fresh_s:
                return held[1]
            if age_s <= 2 * self._fresh_s:
                self._refresh(key)
                return held[1]
        return await asyncio.shield(self._refresh(key))

    def peek(self, tenant: str, namespace: str) -> Standing | None:
        """What is held, however old."""
        return self._held.get((tenant, namespace), (0.0, None))[1]

    def replace_control(self, tenant: str, namespace: str, control: ControlState) -> None:
        """Take the controller's newest state, unless it speaks of another champion."""
        held = self._held.get((tenant, namespace))
        if held is not None and held[1] is not None and in_force(control, held[1].champion):
            self._held[tenant, namespace] = (held[0], replace(held[1], control=control))
            self._replaced[tenant, namespace] = time.monotonic()

    def forget(self, tenant: str, namespace: str) -> None:
        """Read this namespace anew at the next request."""
        self._held.pop((tenant, namespace), None)

    def _refresh(self, key: _Key) -> asyncio.Task[Standing | None]:
        task = self._reading.get(key)
        if task is None:
            task = asyncio.create_task(self._read_and_hold(key))
            self._reading[key] = task
            task.add_done_callback(lambda done: self._read_ended(key, done))
        return task

    def _read_ended(self, key: _Key, task: asyncio.Task[Standing | None]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled() and task.exception() is not None:
            self._held.pop(key, None)  # too old a standing must not be served from

    async def _read_and_hold(self, key: _Key) -> Standing | None:
        began = time.monotonic()
        standing = await asyncio.to_thread(self._read, *key)
        held = self.peek(*key)
        newer = held is not None and self._replaced.get(key, 0.0) > began
        if standing and held and newer and in_force(held.control, standing.champion):
            standing = replace(standing, control=held.control)
        self._held[key] = (began, standing)
        return standing

    def _read(self, tenant: str, namespace: str) -> Standing | None:
        """Runs in a thread. Brings a champion that is not in force yet into force.

        Raises: StoreError, VaultError; ServingError when the champion's facts are unreadable or
        its evaluator is no longer configured.
        """
        state, config = self._workspace.state, self._workspace.config
        record = state.champion(tenant, namespace)
        policy = policy_of(config, namespace)
        control = self._control(tenant, namespace, record, policy)
        if record is None or not in_force(control, record):
            return None
        held = self.peek(tenant, namespace)
        if held is not None and held.champion == record:
            return replace(held, control=control)
        facts, task = ServingFacts.from_plain(record.facts), config.task(namespace)
        return Standing(
            champion=record,
            facts=facts,
            eligibility=facts.eligibility(record.version),
            control=control,
            policy=policy,
            task=task,
            evaluator=champion_evaluator(facts, task, namespace, self._embed),
            draw_key=self._workspace.vault.fingerprint(tenant, "draw", namespace.encode()),
        )

    def _control(
        self, tenant: str, namespace: str, record: ChampionRecord | None, policy: Policy
    ) -> ControlState:
        state = self._workspace.state
        try:
            control = control_of(state.control(tenant, namespace))
            if in_force(control, record):
                return control
            control, events = bring_into_force(state, tenant, namespace, policy, now_us())
        except (ValueError, KeyError, TypeError) as error:
            raise ServingError(
                f"the controller's state of {tenant}.{namespace} cannot be read"
                f" ({type(error).__name__})",
                remedy="it was written by another version; promote the champion again",
            ) from None
        self._announce(tenant, namespace, events)
        return control
