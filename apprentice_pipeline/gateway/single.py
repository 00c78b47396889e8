"""`apprentice serve FILE.kolm`: one verified artifact, alone, behind both providers' shapes.

Belongs here: the small application and its server. Does not: capture, registry, routing; no
network but the address it listens on. Promise: nothing is served from a file that has not just
verified against the pinned key, on the very base its manifest names by digest; what the model
cannot do (several answers, tools, a response format) is refused, never ignored.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apprentice_pipeline.artifact.kolm import VerifiedArtifact, unpack, verify_kolm
from apprentice_pipeline.control.eligibility import ChampionFacts, eligible
from apprentice_pipeline.distill.base_model import BaseModel, resolve_base
from apprentice_pipeline.errors import ArtifactError, BaseModelMissing, UsageError, WireError
from apprentice_pipeline.evaluate.student import Generation, Student
from apprentice_pipeline.gateway.access import is_loopback
from apprentice_pipeline.gateway.cut_answers import cut_body, cut_events
from apprentice_pipeline.records import CUT, WHOLE, Answer, Message, Usage, now_us
from apprentice_pipeline.wire.conversation import prompt_messages, request_facts
from apprentice_pipeline.wire.forms import WireFormat, WireRequest
from apprentice_pipeline.wire.providers import wire_format

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
MOST_TOKENS = 512
MOST_BODY_BYTES = 1_000_000
ANY_CONTEXT = 2**31
"""The prompt's tokens are counted by the model, not estimated."""


def find_base(verified: VerifiedArtifact, given: str | None, configured: str) -> BaseModel:
    """The very base that the manifest names by digest: the one given, and no other then; else the
    configured one or, where that is another, the one of the manifest's name on this machine.

    Raises: ArtifactError when none of them is that base; BaseModelMissing for a given one that
    is not there.
    """
    named = verified.manifest.base_digest.removeprefix("sha256:")
    names = [given] if given else dict.fromkeys((configured, verified.manifest.base_name))
    for name in names:
        try:
            found = resolve_base(name)
        except BaseModelMissing:
            if given:
                raise
            continue
        if found.digest.removeprefix("sha256:") == named:
            return found
    raise ArtifactError(
        f"the artifact was grown from {verified.manifest.base_name} ({named[:12]}…), "
        f"not from {' or '.join(names)} as found here",
        remedy="name the folder of that base with --base DIR",
    )


def load_student(verified: VerifiedArtifact, base: BaseModel, folder: Path) -> Student:
    """The artifact's student, unpacked into `folder`. Raises: ArtifactError."""
    unpack(verified, folder)
    return Student.load(base.path, folder / "adapter")


def create_single_app(student: Student, model: str) -> Starlette:
    """The application: chat completions, responses, messages, models and health."""
    turn = asyncio.Lock()

    async def answer(provider: str, endpoint: str, request: Request) -> Response:
        wire = wire_format(provider)
        if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
            return _refusal(wire, 403, "requests of web pages are refused")
        try:
            asked, messages = _read(wire, endpoint, await request.body())
            tokens = min(asked.max_output_tokens or MOST_TOKENS, MOST_TOKENS)
            async with turn:
                said = await asyncio.to_thread(_generate, student, messages, tokens)
        except WireError as error:
            return _refusal(wire, 400, error.message)
        usage = Usage(said.input_tokens, said.output_tokens, source="provider")
        ending = CUT if said.finish_reason == "length" else WHOLE
        given = Answer(said.text, model, "local", said.latency_us, usage, ending=ending)
        headers = {"x-apprentice-served-by": "local"}
        parts = _written(wire, endpoint, asked, given)
        if asked.streamed:
            return StreamingResponse(parts, media_type="text/event-stream", headers=headers)
        return Response(b"".join(parts), media_type="application/json", headers=headers)

    async def chat(request: Request) -> Response:
        return await answer("openai", "chat.completions", request)

    async def responses(request: Request) -> Response:
        return await answer("openai", "responses", request)

    async def messages(request: Request) -> Response:
        return await answer("anthropic", "messages", request)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model"}]})

    async def health(_: Request) -> Response:
        return JSONResponse({"ok": True})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/models", models),
            Route("/healthz", health),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS)],
    )


def _refusal(wire: WireFormat, status: int, message: str) -> Response:
    return Response(wire.write_error(status, message), status, media_type="application/json")


def _read(wire: WireFormat, endpoint: str, body: bytes) -> tuple[WireRequest, list[Message]]:
    """The request and its conversation. Raises: WireError for what this model cannot answer."""
    if len(body) > MOST_BODY_BYTES:
        raise WireError("the request is too large")
    asked = wire.read_request(endpoint, body)
    facts = request_facts(asked.input)
    able = ChampionFacts(0, frozenset({facts.system_prompt_digest}), ANY_CONTEXT)
    if (reason := eligible(facts, able)) is not None:
        raise WireError(reason)
    messages = prompt_messages(asked.input)
    if messages is None:
        raise WireError("this model answers text conversations only")
    return asked, messages


def _generate(student: Student, messages: list[Message], tokens: int) -> Generation:
    """One answer. Raises: WireError when the conversation leaves no room for any."""
    said = student.generate([messages], max_new_tokens=tokens)[0]
    if said.input_tokens >= student.context_tokens:
        raise WireError(
            f"the conversation takes {said.input_tokens} tokens, "
            f"this model's context holds {student.context_tokens}"
        )
    return said


def _written(
    wire: WireFormat, endpoint: str, asked: WireRequest, answer: Answer
) -> Iterator[bytes]:
    """The answer as the provider writes it, one body or events, its ending included."""
    identity: dict[str, Any] = {"response_id": uuid.uuid4().hex, "created_s": now_us() // 1_000_000}
    cut = answer.ending == CUT
    if asked.streamed:
        events = wire.write_stream(endpoint, asked, answer, **identity)
        return cut_events(events) if cut else events
    whole = wire.write_response(endpoint, asked, answer, **identity)
    return iter([cut_body(whole) if cut else whole])


def serve_artifact(
    file: Path,
    *,
    public_key: bytes,
    secret: bytes | None,
    base: str | None,
    configured_base: str,
    host: str,
    port: int,
) -> None:
    """Verifies, loads and serves until interrupted; loopback only, for it asks for no key.

    `base` and `configured_base` are those of `find_base`.
    Raises: ArtifactError, BaseModelMissing; UsageError for an address that is not loopback.
    """
    if not is_loopback(host):
        raise UsageError(
            f"{host} is not loopback and this server asks for no key",
            remedy="listen on 127.0.0.1, or register the model and run `apprentice serve`",
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a base by its id: what is here, no network
    verified = verify_kolm(file, public_key=public_key, secret=secret)
    found = find_base(verified, base, configured_base)
    with tempfile.TemporaryDirectory(prefix="apprentice-") as folder:
        student = load_student(verified, found, Path(folder) / "artifact")
        name = f"{verified.manifest.tenant}.{verified.manifest.namespace}"
        app = create_single_app(student, name)
        uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)
