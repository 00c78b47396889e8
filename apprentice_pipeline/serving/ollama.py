"""The Ollama backend: the adapter merged into its base, and created in Ollama as a model.

Belongs here: handing the merged weights to Ollama, asking it. Does not: starting Ollama, fetching
a base. Ollama no longer takes LoRA adapters by themselves, so each champion becomes a model of
its own, named by its digest; one that exists is not made again. Prompts are rendered here with
the base's own chat template and sent raw, for Ollama's templates are another language.

The base is found by the artifact's name and digest (`champions.base_of`): a name that only Ollama
knows, such as `llama3.1:8b`, is no base that can be merged into; the refusal says so.

Limit: Ollama's arithmetic is its own, and so are its confidences, while the first certificate was
computed with this product's; the comparisons of the shadow phase show whether they agree.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.errors import DeadlineMissed, Overloaded, ServingError
from apprentice_pipeline.serving.backend import NOT_LOADED, LocalAnswer, LocalRequest
from apprentice_pipeline.serving.champions import (
    Wanted,
    adapter_name,
    base_of,
    trusted_by,
    verified_champion,
)
from apprentice_pipeline.serving.frames import private_folder
from apprentice_pipeline.serving.merging import merge_apart
from apprentice_pipeline.serving.preparing import Preparations
from apprentice_pipeline.serving.waiting import AdapterKey
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import ollama

DEFAULT_URL = "http://127.0.0.1:11434"


@dataclass(frozen=True, slots=True)
class Created:
    """A champion as Ollama has it: the model's name, and the tokenizer that renders prompts."""

    model: str
    tokenizer: Any
    end: str


class OllamaBackend:
    """A `Backend` over a running Ollama."""

    def __init__(self, workspace: Workspace) -> None:
        local = workspace.config.local
        self._workspace = workspace
        self._url = local.url or DEFAULT_URL
        self._most = local.queue_size
        self._under_way = 0
        self._client: ollama.AsyncClient | None = None
        self._created: dict[AdapterKey, Created] = {}
        self._preparations = Preparations(self._prepare)

    async def answer(self, request: LocalRequest) -> LocalAnswer:
        """See `Backend.answer`."""
        created = self._created.get((request.tenant, request.namespace, request.version))
        if created is None or self._client is None:
            raise ServingError(NOT_LOADED)
        if self._under_way >= self._most:
            raise Overloaded("as many requests as local.queue_size are under way")
        started = time.monotonic()
        self._under_way += 1
        try:
            async with asyncio.timeout(request.deadline_ms / 1_000):
                reply = await _generated(self._client, created, request)
        except TimeoutError:
            raise DeadlineMissed("the local model did not answer in time") from None
        finally:
            self._under_way -= 1
        return _answer(reply, int((time.monotonic() - started) * 1_000_000))

    async def ready(self, champion: ChampionRecord, *, wait_s: float = 0.0) -> bool:
        """See `Backend.ready`."""
        return await self._preparations.ready(champion, wait_s)

    def refusal(self, champion: ChampionRecord) -> str | None:
        """See `Backend.refusal`."""
        return self._preparations.refusal(champion)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._preparations.close()
        if self._client is not None:
            await self._client.close()

    async def _prepare(self, champion: ChampionRecord) -> None:
        wanted = Wanted.of(champion)
        client = self._connected()
        scratch = await asyncio.to_thread(_scratch, self._workspace)
        try:
            base = await asyncio.to_thread(self._unpacked, wanted, scratch)
            model = f"{adapter_name(*wanted.key)}:{wanted.digest[:12]}"
            await _create(client, model, base, scratch)
            tokenizer = await asyncio.to_thread(_tokenizer, base)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, True)
        self._created[wanted.key] = Created(model, tokenizer, str(tokenizer.eos_token or ""))

    def _connected(self) -> ollama.AsyncClient:
        try:
            from ollama import AsyncClient
        except ImportError:
            raise ServingError(
                "the ollama client is not installed",
                remedy="pip install 'apprentice-pipeline[ollama]', or set local.backend: embedded",
            ) from None
        if self._client is None:
            self._client = AsyncClient(host=self._url)
        return self._client

    def _unpacked(self, wanted: Wanted, scratch: Path) -> Path:
        """The base's folder; the verified adapter lies in `scratch/artifact/adapter`."""
        from apprentice_pipeline.artifact.kolm import unpack

        verified = verified_champion(wanted, trusted_by(self._workspace))
        unpack(verified, scratch / "artifact")
        local = self._workspace.config.local
        return base_of(verified.manifest, local.base_model, local.model_dir)


async def _create(client: ollama.AsyncClient, model: str, base: Path, scratch: Path) -> None:
    """Merge and create, unless Ollama has the model already. Raises: ServingError."""
    from ollama import ResponseError

    try:
        if model in {each.model for each in (await client.list()).models}:
            return
        await merge_apart(base, scratch / "artifact" / "adapter", scratch / "model")
        files = {file.name: await client.create_blob(file) for file in _files(scratch / "model")}
        await client.create(model=model, files=files)
    except (ResponseError, ConnectionError) as error:
        raise ServingError(
            f"Ollama did not take the model ({type(error).__name__})",
            remedy="start `ollama serve` (0.12.11 or newer), or correct local.url",
        ) from None


async def _generated(client: ollama.AsyncClient, created: Created, request: LocalRequest) -> Any:
    from ollama import ResponseError

    from apprentice_pipeline.distill.rows import render

    (prompt,) = render([request.conversation], created.tokenizer, open_answer=True)
    options = {"temperature": 0, "num_predict": request.max_new_tokens, "stop": [created.end]}
    try:
        return await client.generate(
            created.model, prompt, raw=True, logprobs=True, options=options
        )
    except (ResponseError, ConnectionError) as error:
        raise ServingError(f"Ollama does not answer ({type(error).__name__})") from None


def _answer(reply: Any, latency_us: int) -> LocalAnswer:
    tokens = list(reply.logprobs or [])
    return LocalAnswer(
        text=str(reply.response or ""),
        confidence=math.exp(min(0.0, sum(token.logprob for token in tokens))),
        input_tokens=int(reply.prompt_eval_count or 0),
        output_tokens=int(reply.eval_count or 0),
        latency_us=latency_us,
        complete=reply.done_reason == "stop" and bool(tokens),
    )


def _scratch(workspace: Workspace) -> Path:
    folder = private_folder(workspace.home.run / "ollama")
    return Path(tempfile.mkdtemp(prefix="merge-", dir=folder))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base, local_files_only=True)
