"""Our own calls to a remote provider: resamples, samples, `run`.

Belongs here: HTTP, keys in headers, retries within one deadline, errors without content.
Does not: bodies (`wire` builds and reads them), prices, budgets.

Promises: one `ask` ends within `timeout_s`, retries included; redirects are not followed, so
that a key goes nowhere else; no error carries content, keys or addresses.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson

from apprentice_pipeline import config
from apprentice_pipeline.errors import RemoteError, WireError
from apprentice_pipeline.records import Answer
from apprentice_pipeline.remote.prices import cost_usd
from apprentice_pipeline.remote.providers import RemoteProvider, remote_provider
from apprentice_pipeline.wire.outputs import ending_of

RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MAX_RESPONSE_BYTES: Final = 64_000_000

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 20.0
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_OVERRULED: Final = frozenset({"stream", "stream_options"})
_FINAL_CODES: Final = frozenset({"insufficient_quota", "billing_error", "billing_not_active"})
_SAID_CODES: Final = _FINAL_CODES | {
    "authentication_error",
    "context_length_exceeded",
    "invalid_api_key",
    "invalid_request_error",
    "model_not_found",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "request_too_large",
    "server_error",
    "ABORTED",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
}
"""Error codes that a message may repeat; others might be anything."""


class _Refusal(Exception):
    """One attempt that failed: what happened, whether to try again, and when if it was said."""

    def __init__(
        self, cause: str, *, status: int = 0, again: bool = False, pause_s: float | None = None
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.status = status
        self.again = again
        self.pause_s = pause_s


@dataclass(frozen=True, slots=True)
class _Call:
    """One call, ready to be sent as often as it takes."""

    provider: str
    of: RemoteProvider
    model: str
    url: str
    headers: dict[str, str]
    body: bytes


class Remote:
    """Asks remote models. One per event loop; `close` it when done.

    `api_key` gives the key of an environment variable's name, None when it is not set.
    """

    def __init__(
        self,
        settings: config.Remote,
        api_key: Callable[[str], str | None],
        *,
        pause: Callable[[float], Any] = asyncio.sleep,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._settings = settings
        self._api_key = api_key
        self._pause = pause
        self._first_pause_s = first_pause_s
        self._providers: dict[str, RemoteProvider] = {}
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=httpx.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s)),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20),
        )

    async def ask(
        self,
        input: dict[str, Any],
        *,
        provider: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
    ) -> Answer:
        """The model's answer to a request in normal form, with latency (µs) and cost.

        The provider is the configured one unless given, the model that provider's; the
        parameters are the input's own, but for a `temperature` given. `latency_us` is that of
        the attempt that succeeded.

        Raises: RemoteError when the call fails for good, the deadline passes, the key is not
        set, or the answer is not in the provider's format.
        """
        call = self._call(input, provider, model, temperature)
        provider = call.provider
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                body, latency_us = await self._persist(call)
        except TimeoutError:
            raise RemoteError(
                f"{provider} did not answer within {self._settings.timeout_s:g} s",
                remedy="raise remote.timeout_s, or look at the provider's status page",
            ) from None
        return self._answer(call, body, latency_us)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def _call(
        self,
        input: dict[str, Any],
        provider: str | None,
        model: str | None,
        temperature: float | None,
    ) -> _Call:
        provider = provider or self._settings.provider
        found = self._provider(provider)
        model = model or _usual_model(self._settings, provider)
        parameters = {
            name: value
            for name, value in (input.get("parameters") or {}).items()
            if name not in _OVERRULED
        }
        if temperature is not None:
            parameters["temperature"] = temperature
        try:
            body = found.wire.write_request(model, input.get("messages") or [], parameters)
        except WireError as error:
            raise RemoteError(f"the request cannot be put: {error.message}") from None
        url = found.base_url.rstrip("/") + found.wire.call_path(model)
        headers = {
            "content-type": "application/json",
            **found.headers(self._key(provider, model)),
        }
        return _Call(provider, found, model, url, headers, body)

    def _provider(self, name: str) -> RemoteProvider:
        if name not in self._providers:
            self._providers[name] = remote_provider(name, self._settings)
        return self._providers[name]

    def _key(self, provider: str, model: str) -> str:
        variable = _key_variable(self._settings, provider, model)
        key = self._api_key(variable)
        if not key:
            raise RemoteError(
                f"no API key for {provider}",
                remedy=f"set {variable} in the environment, or correct api_key_env",
            )
        return key

    async def _persist(self, call: _Call) -> tuple[bytes, int]:
        """Attempts until one succeeds, is refused for good, or the retries are used up."""
        started = time.monotonic()
        for attempt in range(self._settings.max_retries + 1):
            try:
                return await self._attempt(call)
            except _Refusal as refusal:
                pause_s = refusal.pause_s
                if pause_s is None:
                    pause_s = self._backoff_s(attempt)
                left_s = self._settings.timeout_s - (time.monotonic() - started)
                last = attempt == self._settings.max_retries or pause_s >= left_s
                if last or not refusal.again:
                    raise _error(call.provider, refusal, attempt + 1) from None
            await self._pause(pause_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _attempt(self, call: _Call) -> tuple[bytes, int]:
        began = time.perf_counter_ns()
        try:
            async with self._client.stream(
                "POST", call.url, headers=call.headers, content=call.body
            ) as response:
                body = await _read(response)
        except httpx.TimeoutException:
            raise _Refusal("did not answer in time", again=True) from None
        except httpx.TransportError as error:
            raise _Refusal(_transport_cause(error), again=True) from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise _Refusal(f"could not be called ({type(error).__name__})") from None
        if response.status_code == 200:
            return body, (time.perf_counter_ns() - began) // 1_000
        raise _refusal(response, body)

    def _backoff_s(self, attempt: int) -> float:
        """Exponential with full jitter down to a half, so that clients do not march in step."""
        ceiling = min(_LONGEST_PAUSE_S, self._first_pause_s * 2.0**attempt)
        return ceiling * random.uniform(0.5, 1.0)

    def _answer(self, call: _Call, body: bytes, latency_us: int) -> Answer:
        try:
            read = call.of.wire.read_response(call.of.endpoint, body)
        except WireError:
            raise RemoteError(
                f"{call.provider} answered with {len(body)} bytes that are not its format",
                status=200,
                remedy="check remote.endpoints; a proxy in between may have answered",
            ) from None
        model = read.model or call.model
        cost = cost_usd(call.provider, call.model, read.usage, self._settings.prices)
        return Answer(
            output=read.output,
            model=model,
            served_by="remote",
            latency_us=latency_us,
            usage=read.usage,
            cost_usd=cost,
            ending=ending_of(read),
        )


def _usual_model(settings: config.Remote, provider: str) -> str:
    if provider == settings.provider:
        return settings.model
    for each in settings.additional_providers:
        if each.provider == provider:
            return each.model
    raise RemoteError(
        f"no model of {provider} is configured",
        remedy="name one under remote.additional_providers in apprentice.yaml",
    )


def _key_variable(settings: config.Remote, provider: str, model: str) -> str:
    """The variable of this model, else of this provider, else the provider's usual one."""
    declared = [
        (settings.provider, settings.model, settings.api_key_env),
        *((each.provider, each.model, each.api_key_env) for each in settings.additional_providers),
    ]
    of_provider = [each for each in declared if each[0] == provider]
    of_model = [each for each in of_provider if each[1] == model]
    chosen = (of_model or of_provider)[:1]
    return chosen[0][2] if chosen else f"{provider.upper()}_API_KEY"


async def _read(response: httpx.Response) -> bytes:
    """The body, up to a bound."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            raise _Refusal(f"answered with more than {MAX_RESPONSE_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _refusal(response: httpx.Response, body: bytes) -> _Refusal:
    status, code = response.status_code, _code(body)
    pause_s = _retry_after_s(response.headers)
    said = f"answered {status}" + (f" ({code})" if code in _SAID_CODES else "")
    return _Refusal(
        cause=said,
        status=status,
        again=status in RETRIED and code not in _FINAL_CODES,
        pause_s=_retry_info_s(body) if pause_s is None else pause_s,
    )


def _code(body: bytes) -> str:
    try:
        error = orjson.loads(body)["error"]
        return str(error.get("status") or error.get("code") or error.get("type") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return ""


def _retry_info_s(body: bytes) -> float | None:
    """Seconds that Google asks to wait, in the error's own details; None where it does not."""
    try:
        details = orjson.loads(body)["error"]["details"]
        said = [each["retryDelay"] for each in details if "retryDelay" in each]
        text = said[0].removesuffix("s")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None
    return float(text) if _SECONDS.fullmatch(text) else None


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds to wait as the provider said (a number or an HTTP date), None where it did not."""
    for name, unit in (("retry-after-ms", 1_000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if _SECONDS.fullmatch(text):
            return float(text) / unit
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _transport_cause(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx.RemoteProtocolError):
        return "broke off its answer"
    return f"could not be called ({type(error).__name__})"


def _error(provider: str, refusal: _Refusal, attempts: int) -> RemoteError:
    times = "" if attempts == 1 else f" after {attempts} attempts"
    return RemoteError(
        f"{provider} {refusal.cause}{times}",
        status=refusal.status,
        remedy=_REMEDIES.get(refusal.status, _OTHER_REMEDY),
    )


_OTHER_REMEDY: Final = "check the network, remote.endpoints and the provider's status page"
_REMEDIES: Final = {
    400: "the provider does not take this request: check its parameters and the model",
    401: "the API key is not accepted: check the variable that api_key_env names",
    403: "the API key may not use this model",
    404: "check the model's name and remote.endpoints",
    413: "the request is larger than the provider takes",
    429: "the provider's rate limit or quota is reached: wait, raise it, or lower "
    "verify.concurrency",
}
