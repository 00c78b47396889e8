"""A wave of traffic, sent the way customers send it: the official SDKs, pointed at the gateway.

Here: the clients and the threads that use them, and what came back. Not here: what is done with
it (`run`). Half the requests go through each SDK, every fourth as a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.demo.traffic import TrafficLine
from apprentice_pipeline.errors import RemoteError

MAX_TOKENS = 96
STREAMED_EVERY = 4

Ask = Callable[[str, bool], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the wave goes: the gateway, the stream's headers, and each SDK's key and model."""

    gateway_url: str
    headers: Mapping[str, str]
    keys: Mapping[str, str]
    models: Mapping[str, str]
    system_prompt: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one line: who served it, and whether it is the known answer."""

    served_by: str
    agrees: bool


def send_wave(
    target: Target,
    lines: Sequence[TrafficLine],
    *,
    threads: int,
    progress: Callable[[int], None],
) -> list[Reply]:
    """Sends every line once, `threads` at a time; replies in the order of the lines.

    Raises: RemoteError when a call fails for good (the SDKs have retried it by then).
    """
    clients = _clients(target)
    replies: list[Reply] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="wave") as pool:
        futures = [
            pool.submit(_send, clients[i % len(clients)], line, i % STREAMED_EVERY == 0)
            for i, line in enumerate(lines)
        ]
        try:
            for done, future in enumerate(futures, 1):
                replies.append(future.result())
                progress(done)
        except Exception as error:
            for future in futures:
                future.cancel()
            if isinstance(error, RemoteError):
                raise
            raise RemoteError(
                f"a request of the wave failed: {type(error).__name__}",
                remedy="see the gateway's log under the home's run folder",
            ) from error
    return replies


def _send(ask: Ask, line: TrafficLine, streamed: bool) -> Reply:
    text, served_by = ask(line.text, streamed)
    return Reply(served_by=served_by, agrees=_same(text, line.answer))


def _same(text: str, answer: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(text) == answer)
    except ValueError:
        return False


def _clients(target: Target) -> list[Ask]:
    makers = {"openai": _openai_client, "anthropic": _anthropic_client}
    return [makers[provider](target) for provider in target.keys]


def _openai_client(target: Target) -> Ask:
    import openai

    client = openai.OpenAI(
        base_url=f"{target.gateway_url}/v1/capture/openai/v1",
        api_key=target.keys["openai"],
        default_headers=dict(target.headers),
        max_retries=5,
    )
    model = target.models["openai"]

    def ask(text: str, streamed: bool) -> tuple[str, str]:
        messages: list[Any] = [
            {"role": "system", "content": target.system_prompt},
            {"role": "user", "content": text},
        ]
        create = client.chat.completions.with_raw_response.create
        if not streamed:
            raw = create(model=model, messages=messages, max_tokens=MAX_TOKENS)
            return raw.parse().choices[0].message.content or "", _served_by(raw.headers)
        events = create(model=model, messages=messages, max_tokens=MAX_TOKENS, stream=True)
        parts = [chunk.choices[0].delta.content or "" for chunk in events.parse() if chunk.choices]
        return "".join(parts), _served_by(events.headers)

    return ask


def _anthropic_client(target: Target) -> Ask:
    import anthropic

    client = anthropic.Anthropic(
        base_url=f"{target.gateway_url}/v1/capture/anthropic",
        api_key=target.keys["anthropic"],
        default_headers=dict(target.headers),
        max_retries=5,
    )
    model = target.models["anthropic"]

    def ask(text: str, streamed: bool) -> tuple[str, str]:
        messages: list[Any] = [{"role": "user", "content": text}]
        create = client.messages.with_raw_response.create
        if not streamed:
            raw = create(
                model=model, system=target.system_prompt, messages=messages, max_tokens=MAX_TOKENS
            )
            blocks = raw.parse().content
            return "".join(getattr(b, "text", "") for b in blocks), _served_by(raw.headers)
        events = create(
            model=model,
            system=target.system_prompt,
            messages=messages,
            max_tokens=MAX_TOKENS,
            stream=True,
        )
        parts = [
            getattr(event.delta, "text", "")
            for event in events.parse()
            if event.type == "content_block_delta"
        ]
        return "".join(parts), _served_by(events.headers)

    return ask


def _served_by(headers: Mapping[str, str]) -> str:
    return headers.get("x-apprentice-served-by", "remote")
