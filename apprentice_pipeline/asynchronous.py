"""One request of a declared task in, its output out, on the caller's event loop.

Belongs here: opening what a run needs, one run from input to output, recording it, closing.
Does not: policy (`control`), routing (`routing`), prompts (`routing.tasks`), reports (`stages`).

Promises: every answer that was paid for is recorded as an exchange (origin `run`), and returned
even where recording failed (`unrecorded` counts those); nothing is asked of a remote model
beyond the budget; closing commits what was recorded and moves it into the lake. Where no gateway
looks after the home, what a person moves in the registry is followed from here, in a thread, and
a model in service is loaded before the first run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from apprentice_pipeline.config import Task
from apprentice_pipeline.control.events import Phase
from apprentice_pipeline.errors import (
    ApprenticeError,
    BudgetExhausted,
    PriceUnknown,
    RemoteError,
    StoreError,
    UsageError,
)
from apprentice_pipeline.reading.spools import drain_spools
from apprentice_pipeline.records import (
    DEFAULT_TENANT,
    Answer,
    Exchange,
    Feedback,
    is_name,
    new_pair_id,
    now_us,
)
from apprentice_pipeline.remote.client import Remote
from apprentice_pipeline.routing import Attempt, Duplicate, Router
from apprentice_pipeline.routing.champion import control_of
from apprentice_pipeline.routing.spending import Call, Spending
from apprentice_pipeline.routing.tasks import checked_input, output_of, request_of
from apprentice_pipeline.serving.backend import Backend
from apprentice_pipeline.serving.embedding import embedder
from apprentice_pipeline.serving.opening import open_backend, open_supervisor
from apprentice_pipeline.settings import Settings, load_settings
from apprentice_pipeline.store.spool import Spool
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.wire.redaction import redactor

ENDPOINT = "run"
ATTEMPTS = 2
WARM_S = 30.0
"""How long opening waits for models in service; what is not loaded by then loads on."""


@dataclass(frozen=True, slots=True)
class Result:
    """A task's output, validated against its schema where it declares one.

    `served_by` is `remote` or `local`; `latency_ms` is what the caller waited; `cost_usd` is that
    of every answer it took, None where a price is unknown. `quality_risk` marks a local answer
    below the threshold, given because the budget allowed no remote one.
    """

    output: Any
    served_by: str
    cost_usd: float | None
    latency_ms: float
    pair_id: str
    quality_risk: bool = False


@dataclass(frozen=True, slots=True)
class _Opened:
    """What an instance holds while it is open."""

    workspace: Workspace
    spool: Spool
    backend: Backend
    router: Router
    remote: Remote
    spending: Spending
    stop_serving: Callable[[], None]
    following: asyncio.Task[None] | None
    closing: asyncio.Event


class AsyncApprentice:
    """The interface for code with an event loop. Use as `async with`; safe for concurrent runs.

    `alone`: no gateway's supervisor looks after this home. `unrecorded` counts answers that could
    not be recorded, `unfollowed` looks at the registry that failed.
    """

    def __init__(
        self, settings: Settings, *, tenant: str = DEFAULT_TENANT, alone: bool = True
    ) -> None:
        if not is_name(tenant):
            raise UsageError("that cannot name a tenant", remedy="lower-case letters, digits, _ -")
        self._settings = settings
        self._tenant = tenant
        self._alone = alone
        self._opened: _Opened | None = None
        self.unrecorded = 0
        self.unfollowed = 0

    @classmethod
    def from_config(
        cls,
        path: str | Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Self:
        """From a configuration file (default: `APPRENTICE_CONFIG`, `./apprentice.yaml`).

        Raises: ConfigError with every fault of the file and of the environment.
        """
        given = os.environ if environment is None else environment
        return cls(load_settings(given, path), tenant=tenant)

    async def __aenter__(self) -> Self:
        """Opens the stores, the backend and the router, and warms what is in service.

        Raises: StoreError, VaultError.
        """
        workspace = await asyncio.to_thread(Workspace.open, self._settings)
        spool = await asyncio.to_thread(Spool.open, workspace.home.spool, workspace.vault)
        backend, supervisor = open_backend(workspace), open_supervisor(workspace)
        if supervisor is not None:
            supervisor.start()
        closing = asyncio.Event()
        follow = self._follow(workspace, closing) if self._alone else None
        self._opened = _Opened(
            workspace=workspace,
            spool=spool,
            backend=backend,
            router=Router(workspace, backend, spool, embed=embedder()),
            remote=Remote(workspace.config.remote, self._settings.api_key),
            spending=Spending(workspace),
            stop_serving=supervisor.stop if supervisor is not None else lambda: None,
            following=asyncio.create_task(follow) if follow is not None else None,
            closing=closing,
        )
        if self._alone:
            await self._warm_all(self._opened)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finishes comparisons, commits, drains, lets go of everything."""
        await self.close()

    async def close(self) -> None:
        """See `__aexit__`. Safe to call twice."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        opened.closing.set()
        if opened.following is not None:
            await opened.following
        await opened.router.close()
        await opened.remote.close()
        await opened.backend.close()
        await asyncio.to_thread(opened.stop_serving)
        await asyncio.to_thread(opened.spool.close)
        workspace = opened.workspace
        with contextlib.suppress(StoreError):  # the rows stay in the spool; the next drain has them
            await asyncio.to_thread(drain_spools, workspace)
        workspace.close()

    @property
    def router(self) -> Router:
        """The router of this instance. Raises: UsageError when it is not open."""
        return self._open().router

    async def run(self, task: str, input: Mapping[str, Any]) -> Result:
        """The task's output for one input, from whichever model the router chose.

        Raises: UsageError (unknown task, input that does not fit); BudgetExhausted, PriceUnknown
        (no remote call could be paid for and no local answer was at hand); RemoteError.
        """
        started = time.perf_counter()
        declared = self._task(task)
        request = request_of(declared, checked_input(declared, input))
        costs: list[float | None] = []
        for left in reversed(range(ATTEMPTS)):
            pair_id = new_pair_id(now_us())
            routed = await self._open().router.attempt(self._tenant, task, request, pair_id)
            answer, risky = await self._answer(routed)
            costs.append(answer.cost_usd)
            try:
                output = output_of(declared, answer.output)
            except RemoteError:
                if not left:
                    raise
                continue
            return Result(
                output=output,
                served_by=answer.served_by,
                cost_usd=_total_usd(costs),
                latency_ms=(time.perf_counter() - started) * 1_000,
                pair_id=pair_id,
                quality_risk=risky,
            )
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def feedback(self, pair_id: str, action: str, *, task: str, edit: Any = None) -> None:
        """Label an answer of `task`: `approve`, `reject`, or `edit` with the corrected output.

        Raises: UsageError for another action; StoreError when it cannot be recorded.
        """
        if action not in ("approve", "reject", "edit") or (action == "edit") != (edit is not None):
            raise UsageError(
                "feedback is approve, reject, or edit with the corrected output",
                remedy='for example feedback(pair_id, "approve", task="…")',
            )
        self._task(task)
        label = Feedback(pair_id, task, now_us(), action, edit)
        await self._open().spool.commit(label, tenant=self._tenant)

    async def warm(self, task: str, *, wait_s: float = 30.0) -> bool:
        """Whether the task's local model is loaded, waiting at most so long for it."""
        return await self._open().router.warm(self._tenant, task, wait_s=wait_s)

    async def _warm_all(self, opened: _Opened) -> None:
        """Loads every model of ours that is in service, so that the first run meets it."""
        state, config = opened.workspace.state, self._settings.config

        def in_service() -> list[str]:
            return [
                each.namespace
                for each in state.champions()
                if each.tenant == self._tenant
                and config.task(each.namespace)
                and control_of(state.control(each.tenant, each.namespace)).phase is Phase.SERVE
            ]

        with contextlib.suppress(
            StoreError, ValueError, KeyError, TypeError
        ):  # then remote answers
            names = await asyncio.to_thread(in_service)
            await asyncio.gather(*(self.warm(name, wait_s=WARM_S) for name in names))

    async def _follow(self, workspace: Workspace, closing: asyncio.Event) -> None:
        """Looks at the registry now and then, in a thread, until closing."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), workspace.config.serving.registry_poll_s)
                return
            try:
                await asyncio.to_thread(_follow_once, workspace)
            except Exception:  # the task's edge: runs go on with what is in service
                self.unfollowed += 1

    async def _answer(self, routed: Attempt) -> tuple[Answer, bool]:
        """The answer for one attempt, recorded; and whether its quality is at risk."""
        opened = self._open()
        if routed.answer is not None:
            await self._record(routed, routed.answer)
            await opened.router.settle(routed, duplicate=self._duplicate(routed))
            return routed.answer, False
        try:
            answer = await self._ask(routed)
        except (BudgetExhausted, PriceUnknown):
            if routed.fallback is None:
                raise
            opened.router.count_quality_risk(routed)
            await self._record(routed, routed.fallback)
            return routed.fallback, True
        await self._record(routed, answer)
        await opened.router.settle(routed, answer.output, answer.latency_us)
        return answer, False

    async def _ask(self, routed: Attempt) -> Answer:
        opened, model = self._open(), self._settings.config.remote.model
        call = Call(routed.tenant, routed.namespace, "run", model, routed.input)
        return await opened.spending.call(call, lambda: opened.remote.ask(routed.input))

    def _duplicate(self, routed: Attempt) -> Duplicate:
        remote, client = self._settings.config.remote, self._open().remote
        return Duplicate(lambda: client.ask(routed.input), remote.provider, ENDPOINT, remote.model)

    async def _record(self, routed: Attempt, answer: Answer) -> None:
        config = self._settings.config
        exchange = _exchange(routed, answer, config.remote.provider)
        exchange = redactor(config.capture).redacted(exchange)
        limit_s = self._settings.config.gateway.commit_timeout_ms / 1_000
        try:
            async with asyncio.timeout(limit_s):
                await self._open().spool.commit(exchange, tenant=routed.tenant)
        except (ApprenticeError, TimeoutError):
            self.unrecorded += 1

    def _task(self, name: str) -> Task:
        config = self._settings.config
        task = config.task(name)
        if task is None:
            known = ", ".join(each.name for each in config.tasks) or "none"
            raise UsageError(
                f"no task of that name; declared: {known}",
                remedy="declare it under `tasks` in apprentice.yaml",
            )
        return task

    def _open(self) -> _Opened:
        if self._opened is None:
            raise UsageError(
                "this Apprentice is not open", remedy="use it as a context manager (`with`)"
            )
        return self._opened


def _follow_once(workspace: Workspace) -> None:
    """Follows the registry, where there is one to follow: importing MLflow takes a second."""
    local = not workspace.config.registry.tracking_uri
    if local and not (workspace.home.mlflow / "mlflow.db").exists():
        return
    from apprentice_pipeline.routing.following import follow_registry

    follow_registry(workspace)


def _total_usd(costs: Sequence[float | None]) -> float | None:
    """What the attempts cost together, in the decimals they are printed with."""
    known = [Decimal(repr(cost)) for cost in costs if cost is not None]
    return float(sum(known, Decimal(0))) if len(known) == len(costs) else None


def _exchange(routed: Attempt, answer: Answer, provider: str) -> Exchange:
    at_us = now_us()
    return Exchange(
        pair_id=routed.pair_id,
        tenant=routed.tenant,
        namespace=routed.namespace,
        created_at_us=at_us,
        provider=provider,
        endpoint=ENDPOINT,
        model=answer.model,
        status=200,
        complete=True,
        streamed=False,
        served_by=answer.served_by,
        input=routed.input,
        output=answer.output,
        latency_us=answer.latency_us,
        first_byte_us=None,
        usage=answer.usage,
        cost_usd=answer.cost_usd,
        inclusion_probability=routed.inclusion_probability,
        origin="run",
        ending=answer.ending,
    )
