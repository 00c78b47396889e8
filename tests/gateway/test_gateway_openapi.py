"""Our own OpenAPI document: it says what the routes do, and the routes do what it says."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import orjson
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from apprentice_pipeline.gateway.capture import PREFIX
from apprentice_pipeline.gateway.operations import OPERATIONS

CHAT = "/v1/chat/completions"
EXPORT = "/v1/labels/synthesize-corpus?namespace=default"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "ping"}]}
TASK = {"name": "sort", "output_schema": {"label": "str"}}
ROUTES = {
    ("POST", "/v1/capture/{provider}"),
    ("POST", "/v1/capture/{provider}/{path}"),
    ("GET", "/v1/labels/synthesize-corpus"),
    ("POST", "/v1/specialists/auto-distill"),
    ("GET", "/v1/specialists/{job_id}"),
    ("GET", "/v1/specialists/{job_id}/artifact"),
    ("POST", "/v1/tasks/{task}"),
    ("POST", "/v1/artifacts/verify"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/status"),
    ("GET", "/v1/report"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}
"""The contract's table of HTTP routes."""
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
    "negative_data_rejection",
)
FIXED = ("/openapi.json", "/healthz", "/readyz")
"""Takes nothing that could be wrong."""
OPEN = (
    "/v1/artifacts/verify",
    "/v1/capture/{provider}",
    "/v1/capture/{provider}/{path}",
    "/v1/labels/synthesize-corpus",
)
"""The schema cannot say what is right: a `.kolm`, a provider's own requests, a style in a form."""
DERANDOMIZED = "APPRENTICE_FUZZ_EXAMPLES" not in os.environ
EXAMPLES = int(os.environ.get("APPRENTICE_FUZZ_EXAMPLES", "6"))
"""A request to each operation, valid and not; `make fuzz` sends more, and other ones each time."""


@pytest.fixture
def described(gateway: Any, ask: Any) -> dict[str, Any]:
    """The document as the running gateway gives it."""
    answer = ask(gateway.url, "/openapi.json")
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    document: dict[str, Any] = answer.json()
    return document


def operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}


def test_every_route_is_in_the_document_and_the_other_way_round(
    gateway: Any, described: dict[str, Any]
) -> None:
    routes = {
        (method, route.path)
        for route in gateway.app._control.routes
        for method in route.methods - {"HEAD"}
    }
    ours = {(m, path) for m, path in operations(described) if not path.startswith(PREFIX)}
    assert routes == ours


def test_every_route_of_the_contract_is_in_the_document(described: dict[str, Any]) -> None:
    assert operations(described) >= ROUTES


def test_the_document_is_valid_openapi_3_1(described: dict[str, Any]) -> None:
    """Every reference leads somewhere, and every schema is a JSON schema."""
    from jsonschema import Draft202012Validator

    text = orjson.dumps(described).decode()
    for name in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert name in described["components"]["schemas"]
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    schemathesis.openapi.from_dict(described).validate()


def test_the_document_needs_no_key_and_names_nothing_of_anyones(gateway: Any, ask: Any) -> None:
    state = gateway.workspace.state
    made = state.create_key(tenant="acme", namespace="secret-stream", role="capture", now_us=1)
    body = ask(gateway.url, "/openapi.json").body
    assert b"acme" not in body
    assert b"secret-stream" not in body
    assert made.key.encode() not in body


def key_of(gateway: Any, role: str) -> str:
    namespace = "sort" if role == "capture" else None
    made = gateway.workspace.state.create_key(
        tenant="default", namespace=namespace, role=role, now_us=1
    )
    return str(made.key)


@pytest.mark.parametrize("role", ["tenant", "capture", "operator"])
def test_a_key_may_do_what_the_table_gives_its_role_and_nothing_else(
    gateway: Any, ask: Any, role: str
) -> None:
    key = key_of(gateway, role)
    for operation in OPERATIONS:
        path = operation.path.replace("{job_id}", "job_1").replace("{task}", "sort")
        headers = {"x-apprentice-key": key}
        answer = ask(gateway.url, path, b"" if operation.body else None, headers, operation.method)
        allowed = not operation.roles or role in operation.roles
        assert (answer.status != 403) == allowed, operation.path
        if operation.roles:
            refused = ask(gateway.url, path, None, None, operation.method)
            assert refused.status == 401
            assert refused.header("www-authenticate")


@pytest.mark.parametrize("role", ["tenant", "capture", "operator", "nobody"])
def test_generated_requests_get_what_the_document_says_and_never_a_5xx(
    start: Callable[..., Any], ask: Any, role: str
) -> None:
    gateway = start(tasks=[TASK], gateway={"max_body_bytes": 100_000})
    for _ in range(2):
        ask(gateway.url, f"/v1/capture/openai{CHAT}", ASK)
    gateway.captured()
    key = key_of(gateway, "tenant" if role == "nobody" else role)
    headers = {} if role == "nobody" else {"x-apprentice-key": key}
    sent = fuzz(gateway.url, headers, EXAMPLES if role == "tenant" else EXAMPLES // 3)
    described = operations(ask(gateway.url, "/openapi.json").json())
    assert {f"{method} {path}" for method, path in described} - set(sent) == {"GET /openapi.json"}


def test_answers_that_generated_requests_do_not_reach_conform_too(gateway: Any, ask: Any) -> None:
    """A label of a real pair, a job and its artifact, the report in each form, both exports."""
    ids = [ask(gateway.capture(), CHAT, ASK).header("x-apprentice-pair-id") for _ in range(3)]
    gateway.captured()
    state, file = gateway.workspace.state, gateway.workspace.home.artifacts / "a.kolm"
    file.write_bytes(b"PK...")
    job = state.create_job(tenant="default", namespace="a", kind="distill", request={}, now_us=1)
    state.update_job(job.id, state="done", result={"artifact": str(file)}, now_us=2)
    schema = schemathesis.openapi.from_url(
        f"{gateway.url}/openapi.json", config=SchemathesisConfig()
    )
    labels: list[dict[str, Any]] = [
        {"pair_id": ids[0], "action": "approve"},
        {"pair_id": ids[1], "action": "reject"},
        {"pair_id": ids[2], "action": "edit", "edit": {"label": "better"}},
    ]
    asked: list[tuple[str, str, dict[str, Any]]] = [
        *(("POST", "/v1/feedback", {"body": label}) for label in labels),
        ("GET", "/v1/specialists/{job_id}", {"path_parameters": {"job_id": job.id}}),
        ("GET", "/v1/specialists/{job_id}/artifact", {"path_parameters": {"job_id": job.id}}),
        *(("GET", "/v1/report", {"query": {"format": form}}) for form in ("json", "text", "html")),
        *(
            ("GET", "/v1/labels/synthesize-corpus", {"query": {"namespace": "default", **given}})
            for given in ({"format": "jsonl", "limit": 2}, {"format": "parquet"}, {"style": "chat"})
        ),
    ]
    refused = ask(gateway.url, f"{EXPORT}&format=parquet&style=chat")
    assert refused.status == 400, "refused before the first byte, not cut after it"
    checks = CHECKS.get_by_names([name for name in CHECKED if name != "ignored_auth"])
    for method, path, given in asked:
        kind = {"media_type": "application/json"} if "body" in given else {}
        case = schema[path][method].Case(**given, **kind)
        response = case.call()
        assert response.status_code == 200, (path, response.text)
        case.validate_response(response, checks=checks)


def fuzz(url: str, headers: dict[str, str], examples: int) -> Counter[str]:
    """Sends generated requests, valid and not, to every operation; how many of each it sent."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=SchemathesisConfig())
    sent: Counter[str] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.path in FIXED:
                continue
            cases = operation.as_strategy(generation_mode=mode)
            names = CHECKED if operation.path in OPEN else (*CHECKED, "positive_data_acceptance")
            checks = CHECKS.get_by_names(names)
            send(cases, checks, headers, examples)
            sent[operation.label] += examples
    return sent


def send(cases: Any, checks: Any, headers: dict[str, str], examples: int) -> None:
    """One operation's cases, each answer checked."""

    @hypothesis.given(case=cases)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=DERANDOMIZED,
        database=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def conforms(case: Any) -> None:
        case.validate_response(case.call(headers=headers), checks=checks)

    conforms()
