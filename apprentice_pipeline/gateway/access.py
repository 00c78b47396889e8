"""Who calls, and what that caller may do.

Belongs here: keys and their cache, the keyless loopback server, roles, namespaces, sealed
provider keys. Does not: how a refusal is written (`capture`, `routes`).

While no key exists, requests to a loopback Host that come from no foreign web page act for
the tenant `default`; once one was made every request needs one, at once.

What is remembered of a key is forgotten at once when any key of this home changes
(`store.key_changes`), when the key ends, and after `key_cache_s`, which is how late a change made
on another node may be noticed. While the state database does not answer, a key that was good is
trusted for `STALE_S` more, unless a key has changed since; after that the answer is 503.

One question for each thing is asked at a time, in threads of its own. While the database is slow
a call waits `PATIENCE_S`, and goes on with what was said last; the question goes on too.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from apprentice_pipeline.errors import ApprenticeError, StoreError, VaultError
from apprentice_pipeline.gateway.headers import TOKEN_PREFIX, Incoming
from apprentice_pipeline.records import DEFAULT_NAMESPACE, DEFAULT_TENANT, is_name, now_us
from apprentice_pipeline.store.key_changes import KeyChanges
from apprentice_pipeline.store.workspace import Workspace

STALE_S = 60.0
PATIENCE_S = 0.2
LONGEST_S = 15.0
_THREADS = 4
_MOST_CACHED = 10_000
_OWN_PAGE = {"", "none", "same-origin"}
T = TypeVar("T")


class Refusal(ApprenticeError):
    """A request that is refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request acts for. `keyless` callers exist only while no key does."""

    tenant: str
    namespace: str | None
    role: str
    key_id: str = ""
    keyless: bool = False

    def stream(self, wanted: str) -> str:
        """The namespace a request goes to, given its namespace header or parameter.

        Raises: Refusal 400 for what is no name; 403 when a capture key's namespace is another.
        """
        if wanted and not is_name(wanted):
            raise Refusal(400, "the namespace is not a name: [a-z0-9][a-z0-9_-]{0,62}")
        if self.role == "capture" and wanted and wanted != self.namespace:
            raise Refusal(403, "this capture key belongs to another namespace")
        return wanted or self.namespace or DEFAULT_NAMESPACE

    def require(self, *roles: str) -> None:
        """Raises: Refusal 403 unless the caller has one of the roles."""
        if self.role not in roles:
            raise Refusal(
                403,
                f"a {self.role} key may not do this",
                remedy=f"use a {' or '.join(roles)} key (`apprentice key create`)",
            )


KEYLESS = Caller(DEFAULT_TENANT, None, "tenant", keyless=True)


@dataclass(slots=True)
class _Known(Generic[T]):
    """A value of the state database.

    `at` when it was said, `until` when it must be asked for again, `change` the number of key
    changes before it was asked for, `ends` when it is true no more.
    """

    value: T
    at: float
    until: float
    change: int
    ends: float = math.inf


class Access:
    """Admits callers. One per process; lives on one event loop."""

    def __init__(
        self, workspace: Workspace, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workspace = workspace
        self._clock = clock
        self._fresh_s = workspace.config.gateway.key_cache_s
        self._changes = KeyChanges(workspace.home.key_changes)
        self._changes.number()  # opened now: from here on a look cannot fail
        self._has_own_state = not workspace.config.store.state_url
        self._callers: dict[str, _Known[Caller | None]] = {}
        self._provider_keys: dict[tuple[str, str], _Known[str | None]] = {}
        self._any: _Known[bool] | None = None
        self._asking: dict[tuple[object, int], asyncio.Task[_Known[Any]]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="access")

    def close(self) -> None:
        """Lets go of its threads, once what they are asked is answered, and of its file."""
        self._threads.shutdown(wait=False)
        self._changes.close()

    def admit_cached(self, headers: Incoming) -> Caller | None:
        """The caller when the cache alone can tell; None: ask `admit`. No system call."""
        token = headers.token
        if not token:
            return KEYLESS if self._knows_no_key() and not _strangeness(headers) else None
        found = self._callers.get(token)
        if found is None or not self._holds(found):
            return None
        return found.value

    async def admit(self, headers: Incoming) -> Caller:
        """The caller of a request.

        Raises: Refusal 401 without a good key where one is needed, 403 for a foreign page or
        Host, 503 when the state database has not answered for too long.
        """
        token = headers.token
        if not token:
            return await self._keyless(headers)
        if not token.startswith(TOKEN_PREFIX):
            raise Refusal(401, "this is not an apprentice key", remedy=_KEY_REMEDY)
        caller = await self._find(token)
        if caller is None:
            raise Refusal(401, "the apprentice key is unknown or revoked", remedy=_KEY_REMEDY)
        return caller

    async def provider_key(self, caller: Caller, provider: str) -> str:
        """The provider's key that is sealed for the caller's tenant.

        Raises: Refusal 401 when none is stored; 503 when it cannot be read.
        """
        place = (caller.tenant, provider)
        cached = self._provider_keys.get(place)
        if cached is None or not self._holds(cached):
            cached = await self._ask(
                place,
                lambda: (self._open_provider_key(caller.tenant, provider), math.inf),
                cached,
                functools.partial(self._provider_keys.__setitem__, place),
            )
        if cached.value is None:
            raise Refusal(
                401,
                f"no {provider} key is stored for this tenant",
                remedy="give the provider's key to the SDK and the apprentice key in "
                "x-apprentice-key, or store the provider's key on the server",
            )
        return cached.value

    async def _keyless(self, headers: Incoming) -> Caller:
        if await self._any_keys():
            raise Refusal(401, "an apprentice key is needed", remedy=_KEY_REMEDY)
        if fault := _strangeness(headers):
            raise Refusal(403, fault, remedy=_KEY_REMEDY)
        return KEYLESS

    async def _any_keys(self) -> bool:
        """Whether a key was ever made."""
        known = self._any
        if known is not None and known.value:
            return True
        if self._knows_no_key():
            return False
        return (await self._ask("any", self._look_for_any, known, self._keep_any)).value

    def _knows_no_key(self) -> bool:
        """Whether it is known that none was ever made. That is only remembered where every
        process that could make one is of this node: with a state database of its own."""
        known = self._any
        return known is not None and not known.value and self._has_own_state and self._holds(known)

    def _look_for_any(self) -> tuple[bool, float]:
        return self._workspace.state.any_keys(), math.inf

    def _keep_any(self, known: _Known[bool]) -> None:
        self._any = known

    async def _find(self, token: str) -> Caller | None:
        cached = self._callers.get(token)
        if cached is None or not self._holds(cached):
            keep = functools.partial(self._keep_caller, token)
            cached = await self._ask(token, lambda: self._look_up(token), cached, keep)
        return cached.value

    def _keep_caller(self, token: str, known: _Known[Caller | None]) -> None:
        if len(self._callers) >= _MOST_CACHED:
            self._callers.clear()
        self._callers[token] = known

    def _look_up(self, token: str) -> tuple[Caller | None, float]:
        """The token's caller, and the moment, by this clock, from which it is none."""
        record = self._workspace.state.find_key(token)
        if record is None:
            return None, math.inf
        ends = math.inf
        if record.revoked_at_us is not None:
            ends = self._clock() + (record.revoked_at_us - now_us()) / 1_000_000
        return Caller(record.tenant, record.namespace, record.role, record.id), ends

    def _holds(self, known: _Known[T]) -> bool:
        return self._clock() < known.until and self._changes.number() == known.change

    async def _ask(
        self,
        about: object,
        question: Callable[[], tuple[T, float]],
        last: _Known[T] | None,
        keep: Callable[[_Known[T]], None],
    ) -> _Known[T]:
        """What the state database says; what it said last while it is slow or silent, but not for
        long, and not once a key has changed. `keep` gets what holds from now on."""
        change = self._changes.number()
        asking = self._asked(about, change, question, keep)
        usable = self._trusted(last, change)
        await asyncio.wait({asking}, timeout=LONGEST_S if usable is None else PATIENCE_S)
        if asking.done() and asking.exception() is None:
            return asking.result()
        if asking.done() and not isinstance(asking.exception(), (StoreError, VaultError)):
            return await asking  # nobody foresaw it: the caller's edge tells
        trusted = self._trusted(last, change)
        if trusted is None or change != self._changes.number():
            raise Refusal(503, "keys cannot be checked at the moment; try again")
        keep(trusted)
        return trusted

    def _asked(
        self,
        about: object,
        change: int,
        question: Callable[[], tuple[T, float]],
        keep: Callable[[_Known[T]], None],
    ) -> asyncio.Task[_Known[T]]:
        """The question that is being asked, or is asked now: one at a time, but never one from
        before a key's change."""
        place = (about, change)
        task = self._asking.get(place)
        if task is None:
            task = asyncio.create_task(self._answer(change, question, keep))
            self._asking[place] = task
            task.add_done_callback(functools.partial(self._answered, place))
        return task

    async def _answer(
        self,
        change: int,
        question: Callable[[], tuple[T, float]],
        keep: Callable[[_Known[T]], None],
    ) -> _Known[T]:
        asked, loop = self._clock(), asyncio.get_running_loop()
        value, ends = await loop.run_in_executor(self._threads, question)
        until = min(self._clock() + self._fresh_s, asked + STALE_S, ends)
        known = _Known(value, asked, until, change, ends)
        keep(known)
        return known

    def _answered(self, place: tuple[object, int], task: asyncio.Task[_Known[Any]]) -> None:
        self._asking.pop(place, None)
        if not task.cancelled():
            task.exception()  # told to those who waited; there may be none

    def _trusted(self, last: _Known[T] | None, change: int) -> _Known[T] | None:
        """What was said last, to be believed a little longer; None where it may not be."""
        now = self._clock()
        if last is None or change != last.change or now >= min(last.ends, last.at + STALE_S):
            return None
        until = min(now + self._fresh_s, last.at + STALE_S, last.ends)
        return _Known(last.value, last.at, until, change, last.ends)

    def _open_provider_key(self, tenant: str, provider: str) -> str | None:
        sealed = self._workspace.state.provider_key(tenant, provider)
        if sealed is None:
            return None
        return self._workspace.vault.open(
            sealed, tenant=tenant, namespace="", pair_id=provider, field="provider-key"
        ).decode()


_KEY_REMEDY = "send x-apprentice-key; `apprentice key create` makes one"


def is_loopback(hostname: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def _strangeness(headers: Incoming) -> str:
    """Why a request is not served without keys; "" where it is."""
    if not _names_loopback(headers.host):
        return "without keys only loopback hosts are served"
    if _is_foreign(headers.origin, headers.host) or headers.fetch_site not in _OWN_PAGE:
        return "without keys no web page is served"
    return ""


def _is_foreign(origin: str, host: str) -> bool:
    """Whether a web page of another origin than `host` asks; what is no origin is foreign."""
    try:
        return bool(origin) and urlsplit(origin).netloc != host
    except ValueError:
        return True


@functools.lru_cache(maxsize=64)
def _names_loopback(host: str) -> bool:
    """Whether a Host header, port or not, names this machine's loopback and nothing else."""
    named = _HOST.fullmatch(host)
    return named is not None and is_loopback((named[1] or named[2]).lower())


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]*)?")
