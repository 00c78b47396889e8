"""Tokens that are not the caller's, wherever a client can put one.

Two properties. A token that is forged, revoked, expired or almost right is answered, byte for byte,
as one that nobody ever had, reaches no provider, and changes nothing of the tenant it imitates.
And a tenant that sends another's good token beside its own acts for itself alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.records import now_us

TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z")
PROVIDER_KEY = "sk-acmes-own-provider-key"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
GEMINI = {"contents": [{"parts": [{"text": "ping"}]}]}
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/capture/openai/v1/chat/completions", CHAT),
    ("POST", "/v1/capture/openai/v1/responses", {"model": "gpt-4o", "input": "ping"}),
    ("GET", "/v1/capture/openai/v1/models", None),
    ("POST", "/v1/capture/anthropic/v1/messages", {**CHAT, "max_tokens": 9}),
    ("POST", "/v1/capture/gemini/v1beta/models/g:generateContent", GEMINI),
    ("POST", "/v1/capture/gemini/v1beta/models/g:streamGenerateContent?alt=sse", GEMINI),
    ("GET", "/v1/labels/synthesize-corpus?namespace=aardvark", None),
    ("GET", "/v1/status?task=aardvark", None),
    ("GET", "/v1/report", None),
    ("GET", "/metrics", None),
    ("GET", "/v1/specialists/<job>", None),
    ("GET", "/v1/specialists/<job>/artifact", None),
    ("POST", "/v1/specialists/auto-distill", {"namespace": "aardvark"}),
    ("POST", "/v1/feedback", {"pair_id": "<pair>", "action": "approve"}),
    ("POST", "/v1/tasks/aardvark", {"input": {"text": "x"}}),
    ("DELETE", "/v1/labels/synthesize-corpus?namespace=aardvark", None),
]
Place = Callable[[str], tuple[dict[str, str], str]]
PLACES: dict[str, Place] = {
    "own header": lambda token: ({"x-apprentice-key": token}, ""),
    "bearer": lambda token: ({"authorization": f"Bearer {token}"}, ""),
    "small bearer": lambda token: ({"authorization": f"bearer  {token}"}, ""),
    "no scheme": lambda token: ({"authorization": token}, ""),
    "basic": lambda token: (
        {"authorization": "Basic " + base64.b64encode(f":{token}".encode()).decode()},
        "",
    ),
    "x-api-key": lambda token: ({"x-api-key": token}, ""),
    "x-goog-api-key": lambda token: ({"x-goog-api-key": token}, ""),
    "query": lambda token: ({}, f"key={quote(token)}"),
    "query twice": lambda token: ({}, f"key=x&key={quote(token)}"),
    "query, encoded name": lambda token: ({}, f"%6bey={quote(token)}"),
    "cookie": lambda token: ({"cookie": f"x-apprentice-key={token}"}, ""),
    "everywhere": lambda token: (
        {
            "authorization": f"Bearer {token}",
            "x-api-key": token,
            "x-goog-api-key": token,
        },
        f"key={quote(token)}",
    ),
}
TWISTS: dict[str, Callable[[str], str]] = {
    "one letter": lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
    "cut": lambda token: token[:-1],
    "longer": lambda token: token + "A",
    "upper": str.upper,
    "prefix twice": lambda token: "ak_" + token,
    "two": lambda token: f"{token},{token}",
    "quoted": lambda token: f'"{token}"',
    "like": lambda token: token[:6] + "%",
}


class House:
    """A gateway with everything of `acme`'s in it, and a key of `globex`."""

    def __init__(self, gateway: Any, ask: Any, captured: Any, provider: Any) -> None:
        self.gateway, self.provider, self._ask = gateway, provider, ask
        state, vault = gateway.workspace.state, gateway.workspace.vault
        pairs = captured(gateway.workspace, 5, tenant="acme", namespace="aardvark")
        job = state.create_job(
            tenant="acme", namespace="aardvark", kind="distill", request={}, now_us=now_us()
        )
        self.named = {"<job>": job.id, "<pair>": pairs[0].pair_id}
        for name in ("openai", "anthropic", "gemini"):
            place = {"tenant": "acme", "namespace": "", "pair_id": name, "field": "provider-key"}
            state.put_provider_key("acme", name, vault.seal(PROVIDER_KEY.encode(), **place))
        self.acme = self._key("acme")
        self.globex = self._key("globex")
        self.nobodys = "ak_" + self.acme.removeprefix("ak_")[::-1]
        self.revoked = self._key("acme")
        [known] = [each for each in state.list_keys() if self._is(each, self.revoked)]
        state.revoke_key(known.id, now_us())
        self.expired = self._key("acme", expires_at_us=now_us() - 1)
        self.ids = [f"ak_{each.id}" for each in state.list_keys() if each.tenant == "acme"]

    def send(
        self, route: tuple[str, str, Any], place: Place, token: str, **more: str
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body; ids of pairs and times taken out."""
        method, path, body = route
        for name, value in self.named.items():
            path = path.replace(name, value)
            body = orjson.loads(orjson.dumps(body).replace(name.encode(), value.encode()))
        headers, query = place(token)
        if query:
            path += ("&" if "?" in path else "?") + query
        got = self._ask(self.gateway.url, path, body, {**headers, **more}, method)
        kept = [(n, v) for n, v in got.headers if n not in ("date", "x-apprentice-pair-id")]
        return got.status, kept, TIME.sub(b"<time>", got.body)

    def acmes(self) -> list[Any]:
        """What acme has, as its own key reads it, and what is counted of it."""
        routes = [
            ("GET", "/v1/labels/synthesize-corpus?namespace=aardvark", None),
            ("GET", "/v1/specialists/<job>", None),
            ("GET", "/metrics", None),
        ]
        told = [self.send(each, PLACES["own header"], self.acme)[2] for each in routes]
        self.gateway.flush()
        state = self.gateway.workspace.state
        return [*told, state.counters("acme"), state.lifetime_spending("acme")]

    def _key(self, tenant: str, **more: Any) -> str:
        state = self.gateway.workspace.state
        made = state.create_key(tenant=tenant, namespace=None, role="tenant", now_us=1, **more)
        return str(made.key)

    def _is(self, record: Any, token: str) -> bool:
        found = self.gateway.workspace.state.find_key(token)
        return found is not None and found.id == record.id


@pytest.fixture
def house(gateway: Any, ask: Any, captured: Any, provider: Any) -> House:
    return House(gateway, ask, captured, provider)


def test_the_property_can_fail(house: House) -> None:
    """acme's own token, where each kind of client puts it, is answered otherwise."""
    for route, place in (
        (ROUTES[0], "bearer"),
        (ROUTES[3], "x-api-key"),
        (ROUTES[4], "x-goog-api-key"),
        (ROUTES[4], "query"),
        (ROUTES[6], "own header"),
    ):
        told = [house.send(route, PLACES[place], each) for each in (house.acme, house.nobodys)]
        assert told[0][0] == 200
        assert told[1][0] == 401
    sent = [dict(each.headers) for each in house.provider.seen]
    assert PROVIDER_KEY in sent[0]["authorization"]


def test_a_token_that_is_good_no_more_is_answered_as_one_that_never_was(house: House) -> None:
    before = house.acmes()
    house.provider.seen.clear()
    for route in ROUTES:
        for place in PLACES.values():
            expected = house.send(route, place, house.nobodys)
            assert expected[0] in (401, 405)
            for token in (house.revoked, house.expired, *house.ids):
                assert house.send(route, place, token) == expected
    assert house.provider.seen == []
    assert house.acmes() == before


def test_a_token_that_is_almost_right_is_answered_as_one_that_never_was(house: House) -> None:
    requests = st.tuples(
        st.sampled_from(ROUTES), st.sampled_from([*PLACES.values()]), st.sampled_from([*TWISTS])
    )

    @settings(max_examples=200, database=None)
    @given(requests)
    def alike(request: Any) -> None:
        route, place, twist = request
        forged, nobodys = (
            house.send(route, place, TWISTS[twist](token)) for token in (house.acme, house.nobodys)
        )
        assert forged == nobodys
        assert forged[0] in (401, 405)

    before = house.acmes()
    house.provider.seen.clear()
    alike()
    assert house.provider.seen == []
    assert house.acmes() == before


def test_a_tenant_with_anothers_token_beside_its_own_acts_for_itself_alone(house: House) -> None:
    """It gets what the same request with nobody's token gets, and acme's provider key is not
    used. Where its provider looks for a key no apprentice token reaches it."""
    before = house.acmes()
    house.provider.seen.clear()
    for route in ROUTES:
        for name, place in PLACES.items():
            if name == "own header":
                continue
            house.gateway.flush()
            mine = {"x-apprentice-key": house.globex}
            with_theirs = house.send(route, place, house.acme, **mine)
            assert with_theirs == house.send(route, place, house.nobodys, **mine)
            assert with_theirs[0] < 500
    assert house.provider.seen
    for seen in house.provider.seen:
        looked_at = [value for name, value in seen.headers if name != "cookie"]
        looked_at += [unquote(seen.query)] if "v1beta" in seen.path else []
        for token in (house.acme, house.globex, house.nobodys, PROVIDER_KEY):
            assert not [value for value in looked_at if token in value]
    assert {row["tenant"] for row in house.gateway.captured()} == {"acme", "globex"}
    assert house.acmes() == before
