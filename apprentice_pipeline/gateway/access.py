"""Who calls, and what that caller may do.

Belongs here: keys and their cache, the keyless loopback server, roles, namespaces, sealed
provider keys. Does not: how a refusal is written (`capture`, `routes`).

While no key exists, requests to a loopback Host that come from no foreign web page act for
the tenant `default`; once one was made every request needs one, at once. A key that was good
is trusted for `key_cache_s`, and for `STALE_S` while the state database does not answer; after
that the answer is 503.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from apprentice_pipeline.errors import ApprenticeError, StoreError, VaultError
from apprentice_pipeline.gateway.headers import TOKEN_PREFIX, Incoming
from apprentice_pipeline.records import DEFAULT_NAMESPACE, DEFAULT_TENANT, is_name
from apprentice_pipeline.store.keys import KeyRecord
from apprentice_pipeline.store.workspace import Workspace

STALE_S = 60.0
LOOK_S = 0.002
"""How long a look at the state database's files holds: less than any command that makes a key."""
_MOST_CACHED = 10_000
_SETTLED_NS = 50_000_000
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
    """A value of the state database: `at` when it was said, `asked` when it was last asked for."""

    value: T
    at: float
    asked: float


class Access:
    """Admits callers. One per process; lives on one event loop."""

    def __init__(
        self, workspace: Workspace, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workspace = workspace
        self._clock = clock
        self._fresh_s = workspace.config.gateway.key_cache_s
        self._keys: dict[str, _Known[KeyRecord | None]] = {}
        self._provider_keys: dict[tuple[str, str], _Known[str | None]] = {}
        self._any: _Known[bool] | None = None
        self._no_keys_stamp: tuple[int, ...] | None = None
        self._looked_until = 0.0

    def admit_cached(self, headers: Incoming) -> Caller | None:
        """The caller when the cache alone can tell; None: ask `admit`."""
        found = self._keys.get(headers.token)
        if found is None or found.value is None or not self._fresh(found):
            return None
        return _caller(found.value)

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
        record = await self._find(token)
        if record is None:
            raise Refusal(401, "the apprentice key is unknown or revoked", remedy=_KEY_REMEDY)
        return _caller(record)

    async def provider_key(self, caller: Caller, provider: str) -> str:
        """The provider's key that is sealed for the caller's tenant.

        Raises: Refusal 401 when none is stored; 503 when it cannot be read.
        """
        place = (caller.tenant, provider)
        cached = self._provider_keys.get(place)
        if cached is None or not self._fresh(cached):
            cached = await self._ask(
                lambda: self._open_provider_key(caller.tenant, provider), cached
            )
            self._provider_keys[place] = cached
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
        if not _names_loopback(headers.host):
            raise Refusal(403, "without keys only loopback hosts are served", remedy=_KEY_REMEDY)
        foreign = headers.origin and urlsplit(headers.origin).netloc != headers.host
        if foreign or headers.fetch_site not in _OWN_PAGE:
            raise Refusal(403, "without keys no web page is served", remedy=_KEY_REMEDY)
        return KEYLESS

    async def _any_keys(self) -> bool:
        """Whether a key exists. Nothing is asked while the state database's files stand still."""
        now, known = self._clock(), self._any
        if known is not None and (known.value or now < self._looked_until):
            return known.value
        stamp = self._stamp()
        if known is None or stamp is None or stamp != self._no_keys_stamp:
            self._any = known = await self._ask(self._workspace.state.any_keys, known)
            self._no_keys_stamp = stamp
        if stamp is not None:
            self._looked_until = now + LOOK_S
        return known.value

    def _stamp(self) -> tuple[int, ...] | None:
        """Size and time of the SQLite files; None when they cannot tell (another database, or
        a change so recent that a next one might carry the same time).
        """
        if self._workspace.config.store.state_url:
            return None
        stamp: list[int] = []
        file = str(self._workspace.home.state)
        for name in (file, f"{file}-wal"):
            try:
                status = os.stat(name)
            except OSError:
                continue
            if time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
                return None
            stamp += (status.st_mtime_ns, status.st_size, status.st_ino)
        return tuple(stamp) or None

    async def _find(self, token: str) -> KeyRecord | None:
        cached = self._keys.get(token)
        if cached is None or not self._fresh(cached):
            cached = await self._ask(lambda: self._workspace.state.find_key(token), cached)
            if len(self._keys) >= _MOST_CACHED:
                self._keys.clear()
            self._keys[token] = cached
        return cached.value

    def _fresh(self, known: _Known[T]) -> bool:
        return self._clock() - known.asked <= self._fresh_s

    async def _ask(self, question: Callable[[], T], last: _Known[T] | None) -> _Known[T]:
        """What the state database says; what it said last while it is silent, but not for long."""
        asked = self._clock()
        try:
            return _Known(await asyncio.to_thread(question), asked, asked)
        except (StoreError, VaultError):
            if last is not None and asked - last.at <= STALE_S:
                return _Known(last.value, last.at, asked)
            raise Refusal(503, "keys cannot be checked at the moment; try again") from None

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


@functools.lru_cache(maxsize=64)
def _names_loopback(host: str) -> bool:
    """Whether a Host header, port or not, names this machine's loopback."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _caller(record: KeyRecord) -> Caller:
    return Caller(record.tenant, record.namespace, record.role, record.id)
