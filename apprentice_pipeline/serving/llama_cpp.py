"""The llama.cpp backend: adapters its server was started with, chosen per request.

Belongs here: finding a verified champion among the server's adapters. Does not: starting
`llama-server`, converting an adapter to GGUF (llama.cpp's own `convert_lora_to_gguf.py` does).

llama.cpp takes adapters only at its start. Give it each champion as a GGUF file whose name holds
the first twelve digits of the artifact's digest, as `--lora FILE --lora-init-without-apply`; what
is not among its adapters is refused with the command that makes the file.
"""

from __future__ import annotations

import asyncio
from typing import Any

from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.serving.backend import LocalAnswer, LocalRequest
from apprentice_pipeline.serving.champions import Wanted, trusted_by, verified_champion
from apprentice_pipeline.serving.chat import ChatServer
from apprentice_pipeline.serving.preparing import Preparations
from apprentice_pipeline.serving.waiting import AdapterKey
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

DEFAULT_URL = "http://127.0.0.1:8080"
DIGITS = 12


class LlamaCppBackend:
    """A `Backend` over a running `llama-server`."""

    def __init__(self, workspace: Workspace) -> None:
        local = workspace.config.local
        self._workspace = workspace
        self._server = ChatServer(local.url or DEFAULT_URL, most=local.queue_size)
        self._preparations = Preparations(self._prepare)
        self._scales: dict[AdapterKey, list[dict[str, Any]]] = {}

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        """See `Backend.answer`."""
        scales = self._scales.get((request.tenant, request.namespace, request.version))
        if scales is None:
            raise ServingError("the adapter is not loaded")
        return await self._server.answer("local", request, lora=scales)

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        """See `Backend.ready`."""
        return await self._preparations.ready(champion, wait_s)

    def refusal(self, champion: ChampionRecord) -> str | None:
        """See `Backend.refusal`."""
        return self._preparations.refusal(champion)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._preparations.close()
        await self._server.close()

    async def _prepare(self, champion: ChampionRecord) -> None:
        wanted = Wanted.of(champion)
        await asyncio.to_thread(verified_champion, wanted, trusted_by(self._workspace))
        adapters = await self._server.get("/lora-adapters")
        marked = [each["id"] for each in adapters if wanted.digest[:DIGITS] in str(each["path"])]
        if not marked:
            raise ServingError(
                f"llama-server was not started with the adapter of {wanted.title}",
                remedy=f"unpack {wanted.path}, convert its adapter/ with convert_lora_to_gguf.py"
                f" to {wanted.digest[:DIGITS]}.gguf and start llama-server with --lora",
            )
        self._scales[wanted.key] = [
            {"id": each["id"], "scale": float(each["id"] == marked[0])} for each in adapters
        ]
