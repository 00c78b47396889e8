"""Two tenants on one gateway: nothing one of them can send tells it anything of the other.

The property: a request that names what another tenant has is answered, byte for byte, as the same
request naming what nobody has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.stages.labelling import record_feedback

CANARY = "zanzibar-canary-7431"
SECRET = b"the artifact's own bytes " + CANARY.encode()
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)")


Twist = Callable[[str], str]


@dataclass(frozen=True)
class Names:
    """What a request may name: of the other tenant, or of nobody. Alike in length and form."""

    tenant: str
    namespace: str
    pair: str
    job: str

    def fill(self, text: str, twist: Twist = lambda value: value) -> str:
        """The text with each `<name>` filled in; what is not the tenant's name is twisted."""
        for name in ("namespace", "pair", "job"):
            text = text.replace(f"<{name}>", twist(getattr(self, name)))
        return text.replace("<tenant>", self.tenant)

    def taken_out(self, data: bytes, twist: Twist) -> bytes:
        """The data without these names, in whatever form they were sent, and without times."""
        plain = [self.job, self.pair, self.namespace, self.tenant]
        sent = [self.fill(twist(value)) for value in plain]
        forms = {
            form for value in (*plain, *sent) for form in (value, quote(value), unquote(value))
        }
        for form in sorted(forms, key=len, reverse=True):
            data = data.replace(form.encode(), b"<named>")
        return TIME.sub(b"<time>", data)


TEMPLATES: list[tuple[str, str, Any]] = [
    ("GET", "/v1/labels/synthesize-corpus?namespace=<namespace>", None),
    ("GET", "/v1/labels/synthesize-corpus?namespace=<namespace>&format=parquet", None),
    ("GET", "/v1/labels/synthesize-corpus?namespace=<namespace>&style=chat&limit=1", None),
    ("GET", "/v1/labels/synthesize-corpus?namespace=default&namespace=<namespace>", None),
    ("GET", "/v1/status?task=<namespace>", None),
    ("GET", "/v1/status", None),
    ("GET", "/v1/report", None),
    ("GET", "/v1/report?format=text", None),
    ("GET", "/v1/specialists/<job>", None),
    ("GET", "/v1/specialists/<job>/artifact", None),
    ("GET", "/v1/specialists/<tenant>.<namespace>", None),
    ("HEAD", "/v1/specialists/<job>/artifact", None),
    ("POST", "/v1/specialists/auto-distill", {"namespace": "<namespace>"}),
    ("POST", "/v1/feedback", {"pair_id": "<pair>", "action": "approve"}),
    ("POST", "/v1/feedback", {"pair_id": "<pair>", "action": "edit", "edit": {"a": 1}}),
    ("POST", "/v1/tasks/<namespace>", {"input": {"text": "x"}}),
    ("POST", "/v1/artifacts/verify", {"pair_id": "<pair>"}),
    ("POST", "/v1/capture/openai/v1/files/<pair>", CHAT),
    ("GET", "/v1/capture/openai/../../status?task=<namespace>", None),
    ("DELETE", "/v1/labels/synthesize-corpus?namespace=<namespace>", None),
]
TWISTS: list[Twist] = [
    lambda value: value,
    str.upper,
    str.title,
    lambda value: "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in value),
    lambda value: f"../<tenant>/{value}",
    lambda value: f"..%2f<tenant>%2f{value}",
    lambda value: f"<tenant>.{value}",
    lambda value: f"<tenant>/{value}",
    lambda value: f"{value}%00",
    lambda value: f"{value}%0a",
    lambda value: f" {value}",
    lambda value: f"{value[:-1]}%25",
    lambda value: f"{value[:-1]}_",
    lambda value: f"{value}' OR '1'='1",
    lambda value: f"{value}&tenant=<tenant>&namespace={value}",
]
HEADERS: list[dict[str, str]] = [
    {"x-apprentice-namespace": "<namespace>"},
    {"x-apprentice-namespace": "<tenant>"},
    {"x-apprentice-namespace": "../<tenant>/<namespace>"},
    {"x-apprentice-namespace": "<namespace>, default"},
    {"X-Apprentice-Tenant": "<tenant>"},
    {"x-apprentice-pair-id": "<pair>"},
    {"x-tenant": "<tenant>", "x-forwarded-user": "<tenant>"},
    {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1;host=localhost"},
    {"x-http-method-override": "DELETE", "x-original-url": "/v1/report?tenant=<tenant>"},
    {"cookie": "tenant=<tenant>; x-apprentice-key=<tenant>"},
    {"accept": "application/x-<tenant>"},
]


class Shared:
    """A gateway with everything of `acme`'s in it, and keys of `globex`."""

    def __init__(self, gateway: Any, ask: Any, captured: Any, folder: Path) -> None:
        self.gateway, self._ask = gateway, ask
        workspace, state = gateway.workspace, gateway.workspace.state
        pairs = captured(workspace, 5, tenant="acme", namespace="aardvark")
        record_feedback(workspace, "acme", pairs[1].pair_id, action="reject")
        captured(workspace, 2, tenant="globex", namespace="default", skip=9)
        self.artifact = folder / "theirs.kolm"
        self.artifact.write_bytes(SECRET)
        job = state.create_job(
            tenant="acme", namespace="aardvark", kind="distill", request={}, now_us=now_us()
        )
        state.update_job(
            job.id,
            state="done",
            log=CANARY,
            result={"artifact": str(self.artifact)},
            now_us=now_us(),
        )
        state.add_alert("acme", "aardvark", "drift", CANARY, now_us=now_us())
        state.count("acme", "aardvark", "2026-01-01", {"requests": 7_431})
        self.acme = self._key("acme", "tenant")
        self.keys = [
            self._key("globex", "tenant"),
            self._key("globex", "capture", "default"),
            self._key("globex", "operator"),
        ]
        self.theirs = Names("acme", "aardvark", pairs[0].pair_id, job.id)
        other = new_pair_id(pairs[0].created_at_us)
        head = job.id.rstrip("0123456789abcdef-")
        decoy = head + "0123456789abcdef"[::-1] * 4
        self.nobodys = Names("icme", "buzzword", other, decoy[: len(job.id)])
        assert state.job(self.nobodys.job) is None

    def rows(self) -> list[Any]:
        """What the other tenant has, as its own key reads it."""
        templates = [("GET", "/v1/labels/synthesize-corpus?namespace=<namespace>", None)]
        templates += [("GET", "/v1/specialists/<job>", None), ("GET", "/v1/status", None)]
        return [self.answer(self.theirs, self.acme, each)[2] for each in templates]

    def _key(self, tenant: str, role: str, namespace: str | None = None) -> str:
        created = self.gateway.workspace.state.create_key(
            tenant=tenant, namespace=namespace, role=role, now_us=now_us()
        )
        return str(created.key)

    def answer(
        self,
        names: Names,
        token: str,
        template: tuple[str, str, Any],
        twist: Twist = lambda value: value,
        extra: Sequence[dict[str, str]] = (),
    ) -> tuple[int, list[tuple[str, bytes]], bytes]:
        """Status, headers and body, with the names that were sent taken out."""
        method, path, body = template
        url = quote(names.fill(path, twist), safe="/%?&=.;:@")
        sent = None if body is None else orjson.loads(names.fill(json.dumps(body), twist))
        headers = {"x-apprentice-key": token}
        for more in extra:
            headers |= {name: names.fill(value) for name, value in more.items()}
        got = self._ask(self.gateway.url, url, sent, headers, method)
        kept = [
            (name.lower(), names.taken_out(value.encode(), twist))
            for name, value in got.headers
            if name.lower() not in ("date", "x-apprentice-pair-id")
        ]
        return got.status, sorted(kept), names.taken_out(got.body, twist)


@pytest.fixture
def shared(gateway: Any, ask: Any, captured: Any, tmp_path: Path) -> Shared:
    return Shared(gateway, ask, captured, tmp_path)


def test_the_property_can_fail(shared: Shared) -> None:
    """The same requests with a key of the tenant that is named do tell what it has."""
    told = []
    for template in TEMPLATES:
        theirs, nobodys = (
            shared.answer(names, shared.acme, template) for names in (shared.theirs, shared.nobodys)
        )
        told.append(theirs != nobodys or CANARY.encode() in theirs[2])
    named = [template[1] for template, tells in zip(TEMPLATES, told, strict=True) if tells]
    assert {path.split("?")[0] for path in named} >= {
        "/v1/labels/synthesize-corpus",
        "/v1/status",
        "/v1/report",
        "/v1/specialists/<job>",
        "/v1/specialists/<job>/artifact",
        "/v1/specialists/auto-distill",
        "/v1/feedback",
    }


def test_no_request_of_one_tenant_tells_what_another_has(shared: Shared) -> None:
    requests = st.tuples(
        st.sampled_from(shared.keys),
        st.sampled_from(TEMPLATES),
        st.sampled_from(TWISTS),
        st.lists(st.sampled_from(HEADERS), max_size=2),
    )

    @settings(max_examples=150, database=None)
    @given(requests)
    def alike(request: Any) -> None:
        theirs = shared.answer(shared.theirs, *request)
        assert theirs == shared.answer(shared.nobodys, *request)
        assert CANARY.encode() not in theirs[2]

    before = shared.rows()
    alike()
    assert shared.rows() == before


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: f"{each[0]} {each[1]}")
def test_each_request_as_it_stands_tells_nothing(shared: Shared, template: Any) -> None:
    for token in shared.keys:
        theirs = shared.answer(shared.theirs, token, template)
        assert theirs == shared.answer(shared.nobodys, token, template)
        assert CANARY.encode() not in theirs[2]
        assert theirs[0] < 500


def test_a_tenants_metrics_count_its_own_calls_only(gateway: Any, ask: Any) -> None:
    """Totals less one's own would tell what the others do."""
    state = gateway.workspace.state
    tokens = {
        tenant: state.create_key(tenant=tenant, namespace=None, role="tenant", now_us=1).key
        for tenant in ("acme", "globex")
    }
    for number in range(5):
        headers = {"x-apprentice-key": tokens["acme"], "x-apprentice-namespace": f"n{number % 2}"}
        assert ask(gateway.capture(), "/v1/chat/completions", CHAT, headers).status == 200

    def told(tenant: str) -> str:
        headers = {"x-apprentice-key": tokens[tenant]}
        return str(ask(gateway.url, "/metrics", None, headers).body.decode())

    assert 'apprentice_events_total{event="pairs"} 5.0' in told("acme")
    assert 'apprentice_tokens_total{type="input"} 50.0' in told("acme")
    assert not [line for line in told("globex").splitlines() if not line.startswith("#")]
    assert "n0" not in told("acme")
