"""The vLLM backend: many adapters over one base, loaded into a running server by name.

Belongs here: loading a verified adapter through vLLM's `/v1/load_lora_adapter`. Does not:
starting vLLM. The server must be started with `--enable-lora`, `--served-model-name`s of its
own choice, `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, a `--max-lora-rank` that fits, and must see
the same files (it reads the adapter from the home's run folder).

Limit: confidences come from vLLM's own arithmetic, while the first certificate was computed with
this product's; the comparisons of the shadow phase are what shows whether they agree.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.serving.backend import LocalAnswer, LocalRequest
from apprentice_pipeline.serving.champions import (
    Wanted,
    adapter_name,
    trusted_by,
    verified_champion,
)
from apprentice_pipeline.serving.chat import ChatServer
from apprentice_pipeline.serving.frames import private_folder
from apprentice_pipeline.serving.preparing import Preparations
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

DEFAULT_URL = "http://127.0.0.1:8000"


class VllmBackend:
    """A `Backend` over a running vLLM server."""

    def __init__(self, workspace: Workspace) -> None:
        local = workspace.config.local
        self._workspace = workspace
        self._server = ChatServer(local.url or DEFAULT_URL, most=local.queue_size)
        self._preparations = Preparations(self._prepare)

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        """See `Backend.answer`."""
        key = (request.tenant, request.namespace, request.version)
        try:
            return await self._server.answer(adapter_name(*key), request)
        except ServingError as error:
            if "answered 404" in error.message:  # vLLM was restarted and has lost it
                self._preparations.forget(*key)
            raise

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
        base, folder = await asyncio.to_thread(self._unpacked, wanted)
        models = (await self._server.get("/v1/models")).get("data") or []
        if not any(base in _names(model) for model in models):
            raise ServingError(
                f"vLLM does not run {base}, the base of {wanted.title}",
                remedy=f"start it with `vllm serve {base} --enable-lora`",
            )
        name = adapter_name(*wanted.key)
        body = {"lora_name": name, "lora_path": str(folder), "load_inplace": True}
        await self._server.post("/v1/load_lora_adapter", body)

    def _unpacked(self, wanted: Wanted) -> tuple[str, Path]:
        """The base's name, and the adapter's folder: vLLM may read it again, so it stays."""
        from apprentice_pipeline.artifact.kolm import unpack

        verified = verified_champion(wanted, trusted_by(self._workspace))
        folder = private_folder(self._workspace.home.run / "vllm") / wanted.digest[:16]
        shutil.rmtree(folder, ignore_errors=True)
        unpack(verified, folder)
        return verified.manifest.base_name, folder / "adapter"


def _names(model: dict[str, Any]) -> set[str]:
    root = str(model.get("root") or "")
    return {str(model.get("id")), root, Path(root).name}
