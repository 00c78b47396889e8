"""Our own calls, against a real server on a real socket that misbehaves as providers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from apprentice_pipeline import config
from apprentice_pipeline.errors import RemoteError
from apprentice_pipeline.remote.client import Remote

CANARY = "canary-3f9c"
KEY = "sk-secret-77"
INPUT = {
    "messages": [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": CANARY},
    ],
    "parameters": {"max_tokens": 50, "temperature": 0.7},
}
Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Provider:
    """A server that gives its replies in order and keeps what it was asked."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.at: list[float] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        self.asked.append((head[0].split()[1], headers, orjson.loads(body)))
        self.at.append(time.monotonic())
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        try:
            await reply(writer)
        except ConnectionError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[Provider]:
    provider = Provider(list(replies))
    server = await asyncio.start_server(provider.handle, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()


def answers(status: int, body: bytes, **headers: str) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        await writer.drain()

    return reply


def cut(body: bytes) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + body)
        await writer.drain()

    return reply


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


CHAT = orjson.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "refund"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100},
    }
)
MESSAGE = orjson.dumps(
    {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [{"type": "text", "text": "refund"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1_000, "output_tokens": 100},
    }
)
ERROR = orjson.dumps({"error": {"message": f"about {CANARY}", "type": CANARY, "code": None}})


@asynccontextmanager
async def remote(provider: Provider, **changes: Any) -> AsyncIterator[Remote]:
    values: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-4o",
        "api_key_env": "OPENAI_API_KEY",
        "endpoints": {"openai": provider.url, "anthropic": provider.url},
        "timeout_s": 5.0,
        "max_retries": 3,
    }
    keys = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "OTHER_KEY": "other"}
    settings = config.Remote.model_validate({**values, **changes})
    client = Remote(settings, keys.get, first_pause_s=0.01)
    try:
        yield client
    finally:
        await client.close()


async def refused(client: Remote, **how: Any) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        await client.ask(INPUT, **how)
    shown = f"{caught.value} {caught.value.remedy} {caught.value.__cause__}"
    assert CANARY not in shown
    assert KEY not in shown
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


async def test_an_openai_answer_comes_with_usage_cost_and_latency() -> None:
    async with serving(answers(200, CHAT)) as provider, remote(provider) as client:
        answer = await client.ask(INPUT)
    assert (answer.output, answer.model, answer.served_by) == (
        "refund",
        "gpt-4o-2024-08-06",
        "remote",
    )
    assert answer.cost_usd == pytest.approx(0.0035)
    assert answer.latency_us > 0
    path, headers, body = provider.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o", 0.7, 50)
    assert "stream" not in body


async def test_a_system_message_becomes_anthropics_system() -> None:
    async with serving(answers(200, MESSAGE)) as provider, remote(provider) as client:
        answer = await client.ask(INPUT, provider="anthropic", model="claude-sonnet-4-5")
    assert answer.output == "refund"
    assert answer.cost_usd == pytest.approx(0.0045)
    path, headers, body = provider.asked[0]
    assert path == "/v1/messages"
    assert headers["x-api-key"] == KEY
    assert headers["anthropic-version"] == "2023-06-01"
    assert body["system"] == "Classify."
    assert [message["role"] for message in body["messages"]] == ["user"]


async def test_a_temperature_given_overrules_the_inputs_own() -> None:
    async with serving(answers(200, CHAT)) as provider, remote(provider) as client:
        await client.ask(INPUT, temperature=0.0)
    assert provider.asked[0][2]["temperature"] == 0.0
    assert INPUT["parameters"]["temperature"] == 0.7  # type: ignore[index]


async def test_an_endpoint_with_v1_is_the_same_endpoint() -> None:
    async with serving(answers(200, CHAT)) as provider:
        provider.url += "/v1/"
        async with remote(provider) as client:
            await client.ask(INPUT)
    assert provider.asked[0][0] == "/v1/chat/completions"


async def test_each_model_has_its_own_key() -> None:
    more = [{"provider": "openai", "model": "gpt-4o-mini", "api_key_env": "OTHER_KEY"}]
    async with (
        serving(answers(200, CHAT)) as provider,
        remote(provider, additional_providers=more) as client,
    ):
        await client.ask(INPUT, model="gpt-4o-mini")
        await client.ask(INPUT, model="gpt-5")
    assert [asked[1]["authorization"] for asked in provider.asked] == [
        "bearer other",
        f"bearer {KEY}",
    ]


async def test_retry_after_is_respected() -> None:
    async with (
        serving(answers(429, ERROR, retry_after="0.3"), answers(200, CHAT)) as provider,
        remote(provider) as client,
    ):
        await client.ask(INPUT)
    assert provider.at[1] - provider.at[0] >= 0.3


async def test_googles_retry_info_is_respected() -> None:
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.25s"}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "x"}, info]}
    answered = {"candidates": [{"content": {"parts": [{"text": "ok"}]}, "finishReason": "STOP"}]}
    replies = (answers(429, orjson.dumps({"error": error})), answers(200, orjson.dumps(answered)))
    async with serving(*replies) as provider:
        settings = config.Remote.model_validate(
            {"provider": "gemini", "model": "m", "endpoints": {"gemini": provider.url}}
        )
        client = Remote(settings, lambda _: KEY, pause=pause)
        assert (await client.ask(INPUT)).output == "ok"
        await client.close()
    assert waits == [0.25]
    assert provider.asked[0][0] == "/v1beta/models/m:generateContent"


async def test_retry_after_may_be_a_date() -> None:
    when = formatdate(time.time() + 1.5, usegmt=True)
    async with (
        serving(answers(429, ERROR, retry_after=when), answers(200, CHAT)) as provider,
        remote(provider) as client,
    ):
        await client.ask(INPUT)
    assert provider.at[1] - provider.at[0] >= 0.4


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    async with (
        serving(answers(429, ERROR, retry_after="3600")) as provider,
        remote(provider) as client,
    ):
        started = time.monotonic()
        error = await refused(client)
    assert time.monotonic() - started < 2
    assert error.status == 429
    assert "rate limit" in error.remedy
    assert len(provider.asked) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_passing_faults_are_tried_again(status: int) -> None:
    async with (
        serving(answers(status, b"<html>"), answers(200, CHAT)) as provider,
        remote(provider) as client,
    ):
        assert (await client.ask(INPUT)).output == "refund"
    assert len(provider.asked) == 2


@pytest.mark.parametrize("fault", [hangs_up, cut(CHAT[:40]), cut(b"")])
async def test_an_answer_that_breaks_off_is_tried_again(fault: Reply) -> None:
    async with serving(fault, answers(200, CHAT)) as provider, remote(provider) as client:
        assert (await client.ask(INPUT)).output == "refund"
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    ("status", "said"), [(400, "parameters"), (401, "api_key_env"), (403, "model"), (404, "model")]
)
async def test_lasting_faults_are_not_tried_again(status: int, said: str) -> None:
    async with serving(answers(status, ERROR)) as provider, remote(provider) as client:
        error = await refused(client)
    assert error.status == status
    assert said in error.remedy
    assert len(provider.asked) == 1


async def test_an_empty_account_is_not_tried_again() -> None:
    body = orjson.dumps({"error": {"code": "insufficient_quota", "message": CANARY}})
    async with serving(answers(429, body)) as provider, remote(provider) as client:
        error = await refused(client)
    assert "429 (insufficient_quota)" in str(error)
    assert len(provider.asked) == 1


async def test_retries_end() -> None:
    async with (
        serving(answers(500, ERROR)) as provider,
        remote(provider, max_retries=2) as client,
    ):
        error = await refused(client)
    assert str(error) == "openai answered 500 after 3 attempts"
    assert len(provider.asked) == 3


async def test_a_call_that_hangs_ends_at_the_deadline() -> None:
    async with serving(hangs) as provider, remote(provider, timeout_s=0.3) as client:
        started = time.monotonic()
        error = await refused(client)
    assert time.monotonic() - started < 2
    assert error.status == 0
    assert "timeout_s" in error.remedy or "network" in error.remedy


async def test_the_deadline_covers_all_attempts_together() -> None:
    async with (
        serving(answers(500, ERROR, retry_after="0.2")) as provider,
        remote(provider, timeout_s=0.5, max_retries=20) as client,
    ):
        started = time.monotonic()
        await refused(client)
    assert time.monotonic() - started < 1.5
    assert len(provider.asked) <= 4


@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b"[]", b'{"choices": 3}'])
async def test_an_answer_in_another_format_is_an_error_of_its_own(body: bytes) -> None:
    async with serving(answers(200, body)) as provider, remote(provider) as client:
        error = await refused(client)
    assert f"{len(body)} bytes that are not its format" in str(error)


async def test_redirects_are_not_followed_with_the_key() -> None:
    async with (
        serving(answers(307, b"", location="http://127.0.0.1:1/v1")) as provider,
        remote(provider) as client,
    ):
        error = await refused(client)
    assert error.status == 307


async def test_nobody_listening_is_said() -> None:
    async with serving(hangs) as provider:
        provider.url = "http://127.0.0.1:1"
        async with remote(provider, max_retries=1) as client:
            error = await refused(client)
    assert str(error) == "openai cannot be reached after 2 attempts"


async def test_an_address_that_is_none_is_said() -> None:
    async with serving(hangs) as provider:
        provider.url = "nonsense"
        async with remote(provider) as client:
            await refused(client)


async def test_a_missing_key_names_its_variable() -> None:
    async with (
        serving(answers(200, CHAT)) as provider,
        remote(provider, api_key_env="NOT_SET") as client,
    ):
        error = await refused(client)
    assert "NOT_SET" in error.remedy
    assert provider.asked == []


async def test_an_unknown_provider_is_refused() -> None:
    async with serving(hangs) as provider, remote(provider) as client:
        assert "unknown provider" in str(await refused(client, provider="acme"))


async def test_another_provider_answers_with_its_own_model() -> None:
    more = [
        {"provider": "anthropic", "model": "claude-haiku-4-5", "api_key_env": "ANTHROPIC_API_KEY"}
    ]
    async with (
        serving(answers(200, MESSAGE)) as provider,
        remote(provider, additional_providers=more) as client,
    ):
        await client.ask(INPUT, provider="anthropic")
    assert provider.asked[0][2]["model"] == "claude-haiku-4-5"


async def test_a_provider_without_a_model_is_refused() -> None:
    async with serving(hangs) as provider, remote(provider) as client:
        error = await refused(client, provider="anthropic")
    assert "additional_providers" in error.remedy
