"""One conversation to a local server that speaks OpenAI's chat completions, with confidence.

Belongs here: the call that vLLM, llama.cpp and Ollama share, its bound, its errors. Does not:
getting an adapter into the server (`vllm`, `llama_cpp`, `ollama`).

Promises: at most `most` requests are under way, the next is refused at once; every call ends by
its deadline; no error carries content. `confidence` is the product of the probabilities of the
answer's tokens as the server gives them; a server that gives none is not usable.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import httpx
import orjson

from apprentice_pipeline.errors import DeadlineMissed, Overloaded, ServingError
from apprentice_pipeline.serving.backend import LocalAnswer, LocalRequest

CONTROL_TIMEOUT_S = 30.0


class ChatServer:
    """A local server behind `url`. One per event loop; `close` it."""

    def __init__(self, url: str, *, most: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"), timeout=CONTROL_TIMEOUT_S
        )
        self._most = most
        self._under_way = 0

    async def answer(self, model: str, request: LocalRequest, **extra: Any) -> LocalAnswer:
        """The server's answer to a conversation, greedily decoded.

        Raises: Overloaded, DeadlineMissed; ServingError when the server fails or is not there.
        """
        if self._under_way >= self._most:
            raise Overloaded("as many requests as local.queue_size are under way")
        body = {
            "model": model,
            "messages": request.conversation,
            "max_tokens": request.max_new_tokens,
            "temperature": 0,
            "logprobs": True,
            "stream": False,
        }
        started = time.monotonic()
        self._under_way += 1
        try:
            async with asyncio.timeout(request.deadline_ms / 1_000):
                reply = await self.post("/v1/chat/completions", body | extra)
        except TimeoutError:
            raise DeadlineMissed("the local model did not answer in time") from None
        finally:
            self._under_way -= 1
        return _answer(reply, int((time.monotonic() - started) * 1_000_000))

    async def post(self, path: str, body: Any) -> Any:
        """The JSON (or text) answered to a POST. Raises: ServingError."""
        return await self._call("POST", path, body)

    async def get(self, path: str) -> Any:
        """The JSON answered to a GET. Raises: ServingError."""
        return await self._call("GET", path, None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _call(self, method: str, path: str, body: Any) -> Any:
        content = None if body is None else orjson.dumps(body)
        headers = {"content-type": "application/json"}
        try:
            response = await self._client.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ServingError(
                f"the local server does not answer ({type(error).__name__})",
                remedy="start it, or correct local.url",
            ) from None
        if response.status_code != 200:
            raise ServingError(f"the local server answered {response.status_code} to {path}")
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError:
            return response.text


def _answer(reply: Any, latency_us: int) -> LocalAnswer:
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        tokens = choice["logprobs"]["content"]
        return LocalAnswer(
            text=str(choice["message"]["content"] or ""),
            confidence=math.exp(min(0.0, sum(float(token["logprob"]) for token in tokens))),
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or len(tokens)),
            latency_us=latency_us,
            complete=choice.get("finish_reason") == "stop" and bool(tokens),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise ServingError(
            "the local server's answer carries no token log-probabilities",
            remedy="use a version of it that supports `logprobs` in chat completions",
        ) from None
