"""`apprentice serve FILE.kolm`: one verified artifact, alone, behind both providers' shapes.

Belongs here: the small application and its server. Does not: capture, registry, routing; no
network but the address it listens on. Promise: nothing is served from a file that has not just
verified against the pinned key, on the very base its manifest names by digest.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apprentice_pipeline.artifact.kolm import VerifiedArtifact, unpack, verify_kolm
from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.errors import ArtifactError, UsageError, WireError
from apprentice_pipeline.evaluate.student import Student
from apprentice_pipeline.gateway.access import is_loopback
from apprentice_pipeline.records import Answer, Usage, now_us
from apprentice_pipeline.wire.conversation import prompt_messages
from apprentice_pipeline.wire.providers import wire_format

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
MOST_TOKENS = 512
MOST_BODY_BYTES = 1_000_000


def load_student(verified: VerifiedArtifact, base: str, folder: Path) -> Student:
    """The artifact's student. Raises: ArtifactError when `base` is not the base it names."""
    found = resolve_base(base)
    named = verified.manifest.base_digest.removeprefix("sha256:")
    if found.digest.removeprefix("sha256:") != named:
        raise ArtifactError(
            f"the artifact was grown from {verified.manifest.base_name} ({named[:12]}…), "
            f"not from this base ({found.digest[:12]}…)",
            remedy="name the folder of that base with --base DIR",
        )
    unpack(verified, folder)
    return Student.load(found.path, folder / "adapter")


def create_single_app(student: Student, model: str) -> Starlette:
    """The application: chat completions, messages, models and health."""
    turn = asyncio.Lock()

    async def answer(provider: str, endpoint: str, request: Request) -> Response:
        wire = wire_format(provider)
        if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
            refused = wire.write_error(403, "requests of web pages are refused")
            return Response(refused, 403, media_type="application/json")
        body = await request.body()
        try:
            if len(body) > MOST_BODY_BYTES:
                raise WireError("the request is too large")
            asked = wire.read_request(endpoint, body)
            messages = prompt_messages(asked.input)
            if messages is None:
                raise WireError("this model answers text conversations only")
        except WireError as error:
            return Response(
                wire.write_error(400, error.message), 400, media_type="application/json"
            )
        tokens = min(asked.max_output_tokens or MOST_TOKENS, MOST_TOKENS)
        async with turn:
            said = (await asyncio.to_thread(student.generate, [messages], max_new_tokens=tokens))[0]
        usage = Usage(said.input_tokens, said.output_tokens, source="provider")
        given = Answer(said.text, model, "local", said.latency_us, usage)
        response_id, created_s = uuid.uuid4().hex, now_us() // 1_000_000
        headers = {"x-apprentice-served-by": "local"}
        if asked.streamed:
            events = wire.write_stream(
                endpoint, asked, given, response_id=response_id, created_s=created_s
            )
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        whole = wire.write_response(
            endpoint, asked, given, response_id=response_id, created_s=created_s
        )
        return Response(whole, media_type="application/json", headers=headers)

    async def chat(request: Request) -> Response:
        return await answer("openai", "chat.completions", request)

    async def messages(request: Request) -> Response:
        return await answer("anthropic", "messages", request)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model"}]})

    async def health(_: Request) -> Response:
        return JSONResponse({"ok": True})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/models", models),
            Route("/healthz", health),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS)],
    )


def serve_artifact(
    file: Path, *, public_key: bytes, secret: bytes | None, base: str, host: str, port: int
) -> None:
    """Verifies, loads and serves until interrupted; loopback only, for it asks for no key.

    Raises: ArtifactError, BaseModelMissing; UsageError for an address that is not loopback.
    """
    if not is_loopback(host):
        raise UsageError(
            f"{host} is not loopback and this server asks for no key",
            remedy="listen on 127.0.0.1, or register the model and run `apprentice serve`",
        )
    verified = verify_kolm(file, public_key=public_key, secret=secret)
    with tempfile.TemporaryDirectory(prefix="apprentice-") as folder:
        student = load_student(verified, base, Path(folder) / "artifact")
        name = f"{verified.manifest.tenant}.{verified.manifest.namespace}"
        app = create_single_app(student, name)
        uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)
