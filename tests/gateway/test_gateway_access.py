"""Who may do what: keyless loopback, keys, roles, tenants, sealed provider keys."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from typing import Any

import orjson
import pytest

from apprentice_pipeline.errors import StoreError
from apprentice_pipeline.gateway.access import Access, Caller, Refusal
from apprentice_pipeline.gateway.headers import read_headers
from apprentice_pipeline.records import now_us

CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
SDK_KEY = {"authorization": "Bearer sk-own"}


def key(gateway: Any, role: str, tenant: str = "acme", namespace: str | None = None) -> str:
    created = gateway.workspace.state.create_key(
        tenant=tenant, namespace=namespace, role=role, now_us=now_us()
    )
    return str(created.key)


def test_without_keys_a_loopback_client_is_the_default_tenant(gateway: Any, ask: Any) -> None:
    assert ask(gateway.capture(), CHAT, ASK).status == 200
    assert gateway.captured()[0]["tenant"] == "default"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "10.0.0.5:8710"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/capture/openai" + CHAT, "/v1/status"])
def test_without_keys_foreign_hosts_and_pages_are_refused(
    gateway: Any, provider: Any, ask: Any, headers: dict[str, str], path: str
) -> None:
    body = ASK if "capture" in path else None
    assert ask(gateway.url, path, body, headers).status == 403
    assert provider.seen == []
    assert ask(gateway.capture(), CHAT, ASK).status == 200
    assert ask(gateway.url, path, body, headers).status == 403  # also where it is known from memory
    assert len(provider.seen) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:8710", "127.8.8.8"])
def test_without_keys_every_loopback_name_is_served(gateway: Any, ask: Any, host: str) -> None:
    assert ask(gateway.capture(), CHAT, ASK, {"host": host}).status == 200


def test_from_the_first_key_on_every_request_needs_one_at_once(gateway: Any, ask: Any) -> None:
    for _ in range(3):
        assert ask(gateway.capture(), CHAT, ASK).status == 200
    token = key(gateway, "tenant")
    refused = ask(gateway.capture(), CHAT, ASK)
    assert refused.status == 401
    assert refused.json()["error"]["type"] == "authentication_error"
    assert ask(gateway.url, "/v1/status").status == 401
    assert ask(gateway.url, "/metrics").status == 401
    assert ask(gateway.capture(), CHAT, ASK, {"x-apprentice-key": token}).status == 200


def test_health_needs_no_key(gateway: Any, ask: Any) -> None:
    key(gateway, "tenant")
    assert ask(gateway.url, "/healthz").status == 200
    assert ask(gateway.url, "/readyz").status == 200


def test_revoking_the_last_key_does_not_open_the_server(gateway: Any, ask: Any) -> None:
    created = gateway.workspace.state.create_key(
        tenant="acme", namespace=None, role="tenant", now_us=now_us()
    )
    header = {"x-apprentice-key": created.key}
    assert ask(gateway.capture(), CHAT, ASK, header).status == 200
    gateway.workspace.state.revoke_key(created.id, now_us())
    assert ask(gateway.capture(), CHAT, ASK, header).status == 401
    assert ask(gateway.capture(), CHAT, ASK).status == 401


@pytest.mark.parametrize("token", ["ak_unknown", "nonsense", "ak_" + "x" * 5_000])
def test_a_key_that_is_none_is_refused_and_never_forwarded(
    gateway: Any, provider: Any, ask: Any, token: str
) -> None:
    key(gateway, "tenant")
    assert ask(gateway.capture(), CHAT, ASK, {"x-apprentice-key": token}).status == 401
    assert provider.seen == []


def test_our_key_is_stripped_and_the_providers_is_forwarded(
    gateway: Any, provider: Any, ask: Any
) -> None:
    token = key(gateway, "capture", namespace="tickets")
    ask(gateway.capture(), CHAT, ASK, {**SDK_KEY, "x-apprentice-key": token})
    seen = dict(provider.seen[0].headers)
    assert seen["authorization"] == "Bearer sk-own"
    assert token not in str(provider.seen[0])
    (row,) = gateway.captured()
    assert (row["tenant"], row["namespace"]) == ("acme", "tickets")


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "x-goog-api-key"])
def test_a_second_apprentice_key_reaches_no_provider(
    gateway: Any, provider: Any, name: str
) -> None:
    """Of a header that comes twice the last is read; both were forwarded."""
    token = key(gateway, "capture", namespace="tickets")
    connection = http.client.HTTPConnection("127.0.0.1", gateway.server.port, timeout=20)
    connection.putrequest("POST", f"/v1/capture/openai{CHAT}")
    body = orjson.dumps(ASK)
    scheme = "Bearer " if name == "authorization" else ""
    for header, value in (
        ("content-length", str(len(body))),
        ("x-apprentice-key", token),
        (name, f"{scheme}{token}"),
        (name, f"{scheme}sk-own-ak_1"),
    ):
        connection.putheader(header, value)
    connection.endheaders(body)
    assert connection.getresponse().status == 200
    connection.close()
    [seen] = provider.seen
    assert token not in str(seen)
    assert [value for each, value in seen.headers if each == name] == [f"{scheme}sk-own-ak_1"]


ROUTES = [
    ("GET", "/v1/labels/synthesize-corpus?namespace=tickets"),
    ("POST", "/v1/specialists/auto-distill"),
    ("GET", "/v1/specialists/j1"),
    ("GET", "/v1/specialists/j1/artifact"),
    ("POST", "/v1/artifacts/verify"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/status"),
    ("GET", "/v1/report"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_capture_key_may_not_read_train_label_or_erase(
    gateway: Any, ask: Any, method: str, path: str
) -> None:
    token = key(gateway, "capture", namespace="tickets")
    body = {"namespace": "tickets"} if method == "POST" else None
    assert ask(gateway.url, path, body, {"x-apprentice-key": token}).status == 403


@pytest.mark.parametrize(("method", "path"), ROUTES[:-1])
def test_an_operator_key_sees_metrics_and_nothing_else(
    gateway: Any, ask: Any, method: str, path: str
) -> None:
    token = key(gateway, "operator")
    body = {"namespace": "tickets"} if method == "POST" else None
    assert ask(gateway.url, path, body, {"x-apprentice-key": token}).status == 403
    assert ask(gateway.capture(), CHAT, ASK, {"x-apprentice-key": token}).status == 403
    assert ask(gateway.url, "/metrics", None, {"x-apprentice-key": token}).status == 200


def test_the_namespace_header_cannot_widen_a_capture_key(
    gateway: Any, provider: Any, ask: Any
) -> None:
    token = key(gateway, "capture", namespace="tickets")
    headers = {"x-apprentice-key": token, "x-apprentice-namespace": "payroll"}
    assert ask(gateway.capture(), CHAT, ASK, headers).status == 403
    assert ask(gateway.url, "/v1/tasks/payroll", {"input": {}}, headers).status == 403
    headers["x-apprentice-namespace"] = "tickets"
    assert ask(gateway.capture(), CHAT, ASK, headers).status == 200
    assert len(provider.seen) == 1


def test_a_tenant_key_chooses_its_namespace(gateway: Any, ask: Any) -> None:
    headers = {"x-apprentice-key": key(gateway, "tenant"), "x-apprentice-namespace": "payroll"}
    ask(gateway.capture(), CHAT, ASK, headers)
    assert gateway.captured()[0]["namespace"] == "payroll"
    headers["x-apprentice-namespace"] = "../other"
    assert ask(gateway.capture(), CHAT, ASK, headers).status == 400


def seal(gateway: Any, tenant: str, provider: str, secret: str) -> None:
    sealed = gateway.workspace.vault.seal(
        secret.encode(), tenant=tenant, namespace="", pair_id=provider, field="provider-key"
    )
    gateway.workspace.state.put_provider_key(tenant, provider, sealed)


@pytest.mark.parametrize(
    ("provider_name", "header", "expected"),
    [
        ("openai", "authorization", ("authorization", "Bearer sk-stored")),
        ("anthropic", "x-api-key", ("x-api-key", "sk-stored")),
        ("anthropic", "authorization", ("x-api-key", "sk-stored")),
    ],
)
def test_a_capture_key_as_the_sdks_key_is_replaced_by_the_stored_one(
    gateway: Any, provider: Any, ask: Any, provider_name: str, header: str, expected: Any
) -> None:
    token = key(gateway, "capture", namespace="tickets")
    seal(gateway, "acme", provider_name, "sk-stored")
    value = f"Bearer {token}" if header == "authorization" else token
    assert ask(gateway.capture(provider_name), "", ASK, {header: value}).status == 200
    assert expected in provider.seen[0].headers
    assert token not in str(provider.seen[0])


def test_a_capture_key_reaches_nothing_but_captures_with_the_stored_key(
    gateway: Any, provider: Any, ask: Any
) -> None:
    token = key(gateway, "capture", namespace="tickets")
    seal(gateway, "acme", "openai", "sk-stored")
    headers = {"authorization": f"Bearer {token}"}
    assert ask(gateway.capture(), "/v1/files", None, headers).status == 403
    assert provider.seen == []


def test_without_a_stored_key_the_sdks_key_must_be_the_providers(
    gateway: Any, provider: Any, ask: Any
) -> None:
    token = key(gateway, "capture", namespace="tickets")
    seal(gateway, "other", "openai", "sk-other")
    refused = ask(gateway.capture(), CHAT, ASK, {"authorization": f"Bearer {token}"})
    assert refused.status == 401
    assert "sk-other" not in refused.body.decode()
    assert provider.seen == []


class SilentState:
    """A state database that can be made to fail: a fake of the port `Access` uses."""

    def __init__(self, workspace: Any) -> None:
        self._state = workspace.state
        self.silent = False
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def any_keys(self) -> bool:
        self._fail()
        return bool(self._state.any_keys())

    def find_key(self, token: str) -> Any:
        self._fail()
        return self._state.find_key(token)

    def _fail(self) -> None:
        self.asked += 1
        self.answers.wait(20)
        if self.silent:
            raise StoreError("down")


class Desk:
    """A workspace with that state."""

    def __init__(self, workspace: Any) -> None:
        self.state = SilentState(workspace)
        self.config, self.home, self.vault = workspace.config, workspace.home, workspace.vault


async def test_keys_outlive_a_silent_database_for_a_minute_then_503(gateway: Any) -> None:
    token, now = key(gateway, "tenant"), [0.0]
    desk: Any = Desk(gateway.workspace)
    access = Access(desk, clock=lambda: now[0])
    headers = read_headers([(b"x-apprentice-key", token.encode())])
    assert (await access.admit(headers)).tenant == "acme"
    desk.state.silent = True
    for moment in (0.5, 20.0, 59.0):
        now[0] = moment
        assert (await access.admit(headers)).tenant == "acme"
    now[0] = 61.0
    with pytest.raises(Refusal) as refused:
        await access.admit(headers)
    assert refused.value.status == 503
    desk.state.silent = False
    assert isinstance(await access.admit(headers), Caller)


async def test_while_the_database_is_slow_a_known_key_waits_little_and_one_question_is_asked(
    gateway: Any,
) -> None:
    token, now = key(gateway, "tenant"), [0.0]
    desk: Any = Desk(gateway.workspace)
    access = Access(desk, clock=lambda: now[0])
    headers = read_headers([(b"x-apprentice-key", token.encode())])
    await access.admit(headers)
    desk.state.answers.clear()
    now[0], began = 5.0, time.monotonic()
    callers = await asyncio.gather(*(access.admit(headers) for _ in range(50)))
    assert {caller.tenant for caller in callers} == {"acme"}
    assert time.monotonic() - began < 2
    assert access.admit_cached(headers) is not None
    now[0] = 7.0
    assert (await access.admit(headers)).tenant == "acme"
    assert desk.state.asked == 2
    now[0] = 30.0
    desk.state.answers.set()
    while desk.state.asked == 2:
        await asyncio.sleep(0.01)
        if access.admit_cached(headers) is not None:
            break
    assert access.admit_cached(headers) is not None


async def test_after_a_slow_failure_the_last_answer_is_not_asked_for_again_at_once(
    gateway: Any,
) -> None:
    token, now = key(gateway, "tenant"), [0.0]
    desk: Any = Desk(gateway.workspace)
    access = Access(desk, clock=lambda: now[0])
    headers = read_headers([(b"x-apprentice-key", token.encode())])
    await access.admit(headers)
    desk.state.silent = True
    desk.state.answers.clear()
    now[0] = 5.0
    asking = asyncio.create_task(access.admit(headers))
    await asyncio.sleep(0.05)
    now[0] = 15.0
    desk.state.answers.set()
    assert (await asking).tenant == "acme"
    assert access.admit_cached(headers) is not None
    assert desk.state.asked == 2


async def test_on_a_silent_database_no_key_outlives_its_end_or_another_keys_change(
    gateway: Any,
) -> None:
    state, now = gateway.workspace.state, [0.0]
    ending = state.create_key(
        tenant="acme",
        namespace=None,
        role="tenant",
        now_us=now_us(),
        expires_at_us=now_us() + 30_000_000,
    )
    lasting = key(gateway, "tenant")
    desk: Any = Desk(gateway.workspace)
    access = Access(desk, clock=lambda: now[0])
    asked = [read_headers([(b"x-apprentice-key", k.encode())]) for k in (ending.key, lasting)]
    for headers in asked:
        assert (await access.admit(headers)).tenant == "acme"
    desk.state.silent = True
    now[0] = 20.0
    for headers in asked:
        assert (await access.admit(headers)).tenant == "acme"
    now[0] = 31.0
    assert access.admit_cached(asked[0]) is None
    with pytest.raises(Refusal):
        await access.admit(asked[0])
    assert (await access.admit(asked[1])).tenant == "acme"
    key(gateway, "tenant")
    assert access.admit_cached(asked[1]) is None
    with pytest.raises(Refusal) as refused:
        await access.admit(asked[1])
    assert refused.value.status == 503


async def test_what_is_remembered_of_a_key_ends_with_it(gateway: Any) -> None:
    """The clock alone says so: nothing changes in the database when a key expires."""
    end_us = now_us() + 200_000
    created = gateway.workspace.state.create_key(
        tenant="acme", namespace=None, role="tenant", now_us=now_us(), expires_at_us=end_us
    )
    access = Access(gateway.workspace)
    headers = read_headers([(b"x-apprentice-key", created.key.encode())])
    assert (await access.admit(headers)).tenant == "acme"
    await asyncio.sleep(max(0.0, (end_us - now_us()) / 1_000_000) + 0.01)
    assert access.admit_cached(headers) is None
    with pytest.raises(Refusal) as refused:
        await access.admit(headers)
    assert refused.value.status == 401


async def test_an_unknown_key_on_a_silent_database_is_503_not_401(gateway: Any) -> None:
    key(gateway, "tenant")
    desk: Any = Desk(gateway.workspace)
    desk.state.silent = True
    access = Access(desk)
    for raw in ([(b"x-apprentice-key", b"ak_x")], [(b"host", b"127.0.0.1")]):
        with pytest.raises(Refusal) as refused:
            await access.admit(read_headers(raw))
        assert refused.value.status == 503


def test_a_refusal_for_want_of_the_database_says_when_to_try_again(gateway: Any, ask: Any) -> None:
    token, file = key(gateway, "tenant"), gateway.workspace.home.state
    file.rename(file.with_suffix(".away"))
    file.mkdir()
    gateway.workspace.state.close()  # its connections; new ones find the folder
    for path in ("/v1/capture/openai/v1/chat/completions", "/v1/capture/anthropic", "/v1/status"):
        body = None if path == "/v1/status" else {}
        refused = ask(gateway.url, path, body, {"x-apprentice-key": token})
        assert (refused.status, refused.header("retry-after")) == (503, "1")
    gateway.workspace.state.close()
    file.rmdir()
    file.with_suffix(".away").rename(file)
    assert ask(gateway.url, "/v1/status", None, {"x-apprentice-key": token}).status == 200
