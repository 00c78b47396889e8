"""Google's own SDK, pointed at the gateway, before the stand-in frontier."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from apprentice_pipeline.demo.frontier import FrontierSettings, create_frontier
from apprentice_pipeline.stages.access import seal_provider_key

MODEL = "gemini-2.5-flash"
TEXT = '{"category":"billing","note":"long enough to be several events: é😀"}'
GOOGLE_KEY = "AIza-canary-key-51"
LOOK: Any = {"function_declarations": [{"name": "look", "parameters_json_schema": {}}]}
TABLE: dict[str, Any] = {
    "my invoice is wrong": {
        "category": "billing",
        "note": "long enough to be several events: é😀",
    },
    "think": {"$reply": {"text": "the answer", "thinking": "a long thought before it"}},
    "call": {
        "$reply": {
            "text": "I look.",
            "calls": [
                {"name": "look", "arguments": {"at": "a"}},
                {"name": "look", "arguments": {"at": "b"}},
            ],
        }
    },
    "unsafe": {"$reply": {"text": "half of", "stop": "SAFETY"}},
    "recited": {"$reply": {"text": "half of", "stop": "RECITATION"}},
    "blocked": {"$reply": {"text": "", "stop": "BLOCKED"}},
}
Ask = Callable[..., Any]


@pytest.fixture
def google(start: Any, server_type: Any) -> Iterator[Any]:
    """A gateway before the stand-in; made with `google(**sections)`."""
    server = server_type(create_frontier(FrontierSettings(require_key=GOOGLE_KEY), TABLE))
    yield lambda **sections: start(url=server.url, **sections)
    server.stop()


@pytest.fixture
def gateway(google: Any) -> Any:
    return google()


def client(gateway: Any, key: str = GOOGLE_KEY, **headers: str) -> genai.Client:
    options: Any = {"base_url": gateway.capture("gemini"), "headers": headers}
    return genai.Client(api_key=key, http_options=options)


def joined(chunks: Any) -> str:
    return "".join(chunk.text or "" for chunk in chunks)


def pairs(gateway: Any) -> list[tuple[Any, Any]]:
    """Input and output of every pair, oldest first."""
    return [
        (gateway.opened(row, "input"), gateway.opened(row, "output"))
        for row in gateway.captured()
        if row["is_pair"]
    ]


def test_the_pair_of_a_stream_is_the_pair_of_the_call(gateway: Any) -> None:
    config = types.GenerateContentConfig(
        system_instruction="Classify.", temperature=0.3, max_output_tokens=99
    )
    ask: Any = {"model": MODEL, "contents": "my invoice is wrong", "config": config}
    with client(gateway) as sdk:
        whole = sdk.models.generate_content(**ask)
        assert whole.text == TEXT
        assert joined(sdk.models.generate_content_stream(**ask)) == TEXT
    (first, output), second = pairs(gateway)
    assert second == (first, output)
    assert output == TEXT
    assert first["messages"] == [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": "my invoice is wrong"},
    ]
    assert first["parameters"] == {"temperature": 0.3, "max_output_tokens": 99}
    rows = gateway.captured()
    assert [row["streamed"] for row in rows] == [False, True]
    for row in rows:
        assert (row["provider"], row["model"], row["endpoint"]) == (
            "gemini",
            MODEL,
            "generateContent",
        )
        assert row["usage_source"] == "provider"
        assert row["input_tokens"] == whole.usage_metadata.prompt_token_count
        assert row["output_tokens"] == whole.usage_metadata.candidates_token_count
        price = row["input_tokens"] * 0.3 + row["output_tokens"] * 2.5
        assert row["cost_usd"] == pytest.approx(price / 1_000_000)
    assert rows[0]["dedup_key"] == rows[1]["dedup_key"]


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # Google's own
async def test_the_async_client(gateway: Any) -> None:
    ask: Any = {"model": MODEL, "contents": "my invoice is wrong"}
    sdk = client(gateway).aio
    assert (await sdk.models.generate_content(**ask)).text == TEXT
    stream = await sdk.models.generate_content_stream(**ask)
    assert "".join([chunk.text or "" async for chunk in stream]) == TEXT
    await sdk.aclose()
    assert [output for _, output in pairs(gateway)] == [TEXT, TEXT]


def test_function_calls_and_thoughts_are_kept_streamed_or_not(gateway: Any) -> None:
    thinking = types.GenerateContentConfig(
        thinking_config=types.ThinkingConfig(include_thoughts=True)
    )
    calling = types.GenerateContentConfig(tools=[LOOK])
    with client(gateway) as sdk:
        for contents, config in (("think", thinking), ("call", calling)):
            ask: Any = {"model": MODEL, "contents": contents, "config": config}
            whole = sdk.models.generate_content(**ask)
            for _ in sdk.models.generate_content_stream(**ask):
                pass
        assert [call.args for call in whole.function_calls] == [{"at": "a"}, {"at": "b"}]
    thought, thought_again, called, called_again = (output for _, output in pairs(gateway))
    assert thought == thought_again
    assert [block["type"] for block in thought["content"]] == ["thinking", "text"]
    assert thought["content"][1]["text"] == "the answer"
    assert called["content"] == called_again["content"] == [{"type": "text", "text": "I look."}]
    for calls in (called["tool_calls"], called_again["tool_calls"]):
        assert [call["function"]["arguments"] for call in calls] == ['{"at":"a"}', '{"at":"b"}']
    rows = gateway.captured()
    assert rows[0]["output_tokens"] > len("the answer") // 4 + 1  # thoughts are paid for


def test_a_conversation_with_tools_and_images_is_kept_whole(gateway: Any) -> None:
    contents: Any = [
        types.UserContent(
            ["look at it", types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")]
        ),
        types.ModelContent([types.Part.from_function_call(name="look", args={"at": "a"})]),
        types.UserContent([types.Part.from_function_response(name="look", response={"seen": "é"})]),
        types.UserContent("my invoice is wrong"),
    ]
    with client(gateway) as sdk:
        sdk.models.generate_content(model=MODEL, contents=contents, config={"tools": [LOOK]})
    ((asked, _),) = pairs(gateway)
    looked, called, answered, last = asked["messages"]
    assert looked["content"][1]["inlineData"] == {"mimeType": "image/png", "data": "iVBORw=="}
    assert called["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":"a"}'}
    assert (answered["role"], answered["content"]) == ("tool", '{"seen":"é"}')
    assert last == {"role": "user", "content": "my invoice is wrong"}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("contents", "config", "ending"),
    [
        ("my invoice is wrong", {"max_output_tokens": 2}, "cut"),
        ("recited", {}, "cut"),
        ("unsafe", {}, "refused"),
        ("blocked", {}, "refused"),
    ],
)
def test_what_did_not_end_by_itself_is_an_exchange_and_no_pair(
    gateway: Any, contents: str, config: Any, ending: str, streamed: bool
) -> None:
    with client(gateway) as sdk:
        ask = sdk.models.generate_content_stream if streamed else sdk.models.generate_content
        answer: Any = ask(model=MODEL, contents=contents, config=config)
        assert (list(answer) if streamed else answer) is not None
    (row,) = gateway.captured()
    assert (row["is_pair"], row["complete"], row["ending"], row["status"]) == (
        False,
        True,
        ending,
        200,
    )


def test_several_candidates(gateway: Any) -> None:
    ask: Any = {"model": MODEL, "contents": "my invoice is wrong", "config": {"candidate_count": 2}}
    with client(gateway) as sdk:
        assert len(sdk.models.generate_content(**ask).candidates) == 2
        for _ in sdk.models.generate_content_stream(**ask):
            pass
    (_, whole), (_, streamed) = pairs(gateway)
    assert whole == streamed
    assert [block["output"] for block in whole["content"]] == [TEXT, TEXT]


def test_errors_are_the_sdks_own(gateway: Any) -> None:
    with client(gateway, "AIza-wrong") as sdk:
        with pytest.raises(errors.ClientError) as refused:
            sdk.models.generate_content(model=MODEL, contents="x")
        assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
        with pytest.raises(errors.ClientError):
            list(sdk.models.generate_content_stream(model=MODEL, contents="x"))
    assert [(row["status"], row["is_pair"]) for row in gateway.captured()] == [(401, False)] * 2
    gateway.workspace.state.create_key(tenant="t", namespace=None, role="tenant", now_us=1)
    with client(gateway) as sdk, pytest.raises(errors.ClientError) as ours:
        sdk.models.generate_content(model=MODEL, contents="x")
    assert (ours.value.code, ours.value.status) == (401, "UNAUTHENTICATED")
    assert "apprentice key" in str(ours.value.message)


def test_models_and_token_counts_pass_uncaptured(gateway: Any) -> None:
    with client(gateway) as sdk:
        assert any("gpt" in str(model.name) for model in sdk.models.list())
        assert sdk.models.count_tokens(model=MODEL, contents="four words are here").total_tokens
    assert gateway.captured() == []


def test_a_json_array_is_held_from_its_finish_reason_and_read_alike(gateway: Any, ask: Ask) -> None:
    path = f"/v1beta/models/{MODEL}"
    body = {"contents": [{"parts": [{"text": "my invoice is wrong"}]}]}
    key = {"x-goog-api-key": GOOGLE_KEY}
    url = gateway.capture("gemini")
    array = ask(url, f"{path}:streamGenerateContent", body, key)
    assert array.header("content-type") == "application/json"
    assert (
        "".join(part["candidates"][0]["content"]["parts"][0]["text"] for part in array.json())
        == TEXT
    )
    ask(url, f"{path}:streamGenerateContent?alt=sse", body, key)
    ask(url, f"/models/{MODEL}:generateContent", body, key)
    assert len(set(map(repr, pairs(gateway)))) == 1
    assert len(pairs(gateway)) == 3
    assert [row["streamed"] for row in gateway.captured()] == [True, True, False]


def test_a_bare_path_names_no_model(gateway: Any, ask: Ask) -> None:
    refused = ask(gateway.capture("gemini"), "", {"contents": []})
    assert refused.status == 404
    assert refused.json()["error"]["status"] == "NOT_FOUND"
    assert "models/MODEL:generateContent" in refused.json()["error"]["message"]


# --- keys -------------------------------------------------------------------------------------


def sealed(google: Any) -> tuple[Any, str]:
    """A gateway that holds the provider's key, and a capture key for it."""
    made = google()
    workspace = made.workspace
    workspace.settings.environment["GEMINI_API_KEY"] = GOOGLE_KEY
    seal_provider_key(workspace, "acme", "gemini", "GEMINI_API_KEY")
    created = workspace.state.create_key(
        tenant="acme", namespace="tickets", role="capture", now_us=1
    )
    return made, created.key


def test_a_capture_key_may_be_the_sdks_api_key(google: Any) -> None:
    gateway, key = sealed(google)
    with client(gateway, key) as sdk:
        assert sdk.models.generate_content(model=MODEL, contents="my invoice is wrong").text == TEXT
        with pytest.raises(errors.ClientError) as refused:
            list(sdk.models.list())
        assert refused.value.code == 403
    (row,) = gateway.captured()
    assert (row["tenant"], row["namespace"], row["is_pair"]) == ("acme", "tickets", True)


def test_a_capture_key_may_stand_in_the_query(
    start: Any, provider: Any, ask: Ask, tmp_path: Path
) -> None:
    gateway, key = sealed(start)
    path = f"/v1beta/models/{MODEL}:generateContent?alt=json&x=1&key={key}"
    ask(gateway.capture("gemini"), path, {"contents": [{"parts": [{"text": "x"}]}]})
    (seen,) = provider.seen
    assert (seen.path, seen.query) == (path.partition("?")[0], "alt=json&x=1")
    assert dict(seen.headers)["x-goog-api-key"] == GOOGLE_KEY
    assert key not in repr(seen)
    refused = ask(gateway.capture("gemini"), f"{path}bad", {"contents": []})
    assert refused.status == 401
    assert key.encode() not in refused.body


def test_keys_in_the_query_are_kept_nowhere(
    google: Any, ask: Ask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway, key = sealed(google)
    body = {"contents": [{"parts": [{"text": "my invoice is wrong"}]}]}
    base, call = gateway.capture("gemini"), f"/v1beta/models/{MODEL}:generateContent"
    own = {"x-apprentice-key": key}
    assert ask(base, f"{call}?key={GOOGLE_KEY}", body, own).status == 200
    assert ask(base, f"{call}?key=AIza-wrong-canary", body, own).status == 401
    assert ask(base, f"{call}?key={key}", body).status == 200
    assert len(gateway.captured()) == 3
    gateway.flush()
    gateway.server.stop()
    gateway.spool.close()
    gateway.workspace.close()
    secrets = [secret.encode() for secret in (GOOGLE_KEY, "AIza-wrong-canary", key)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        assert not any(secret in data for secret in secrets), path
    said = capfd.readouterr()
    assert not any(secret.decode() in said.out + said.err for secret in secrets)


# --- streams that end otherwise ---------------------------------------------------------------

PART = b'data: {"candidates": [{"content": {"parts": [{"text": "po"}]}}]}\r\n\r\n'
LAST = (
    b'data: {"candidates": [{"content": {"parts": [{"text": "ng"}]}, "finishReason": "STOP"}]}'
    b"\r\n\r\n"
)


@dataclass
class Broken:
    """A provider that sends these events and then waits for its client to leave, or breaks off."""

    events: list[bytes]
    waits: bool = False
    left: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if self.waits:
            await receive()
            self.left.set()


@pytest.fixture
def before(start: Any, server_type: Any) -> Iterator[Any]:
    """`before(provider)`: a gateway before this provider."""
    servers: list[Any] = []

    def make(provider: Any) -> Any:
        servers.append(server_type(provider))
        return start(url=servers[-1].url)

    yield make
    for server in servers:
        server.stop()


def test_a_client_that_leaves_ends_the_stream(before: Any) -> None:
    provider = Broken([PART], waits=True)
    gateway = before(provider)
    with client(gateway) as sdk:
        stream = sdk.models.generate_content_stream(model=MODEL, contents="x")
        assert next(iter(stream)).text == "po"
        stream.close()
    assert provider.left.wait(60)
    deadline = time.monotonic() + 60
    while not gateway.captured() and time.monotonic() < deadline:
        time.sleep(0.05)
    (row,) = gateway.captured()
    assert (row["is_pair"], row["complete"]) == (False, False)


def test_a_stream_that_breaks_off_after_its_last_word_is_passed_on_whole_and_is_no_pair(
    before: Any, ask: Ask
) -> None:
    gateway = before(Broken([PART, LAST]))
    path = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
    with pytest.raises(http.client.IncompleteRead) as broken:
        ask(gateway.capture("gemini"), path, {"contents": [{"parts": [{"text": "x"}]}]})
    assert broken.value.partial == PART + LAST
    (row,) = gateway.captured()
    assert (row["is_pair"], row["complete"], gateway.opened(row, "output")) == (
        False,
        False,
        "pong",
    )
