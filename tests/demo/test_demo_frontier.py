"""The stand-in frontier, driven by the providers' own SDKs over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from apprentice_pipeline.demo.frontier import (
    FrontierSettings,
    RunningFrontier,
    create_frontier,
    main,
    start_frontier,
)
from apprentice_pipeline.demo.stand_in.answers import Answers, estimate_tokens, fold
from apprentice_pipeline.errors import RemoteError, UsageError

ROOT = Path(__file__).resolve().parents[2]
CLAUDE = "claude-haiku-4-5-20251001"
TABLE: dict[str, Any] = {
    "Where is my café order?": {"category": "shipping", "priority": 2},
    "My card was charged twice": {"category": "billing", "priority": 3},
    "plain words": "a plain answer",
    **{f"request {n}": {"category": f"kind {n % 7}", "priority": n % 4 + 1} for n in range(400)},
}
FIRST = '{"category":"shipping","priority":2}'
TOOL = {"name": "classify", "description": "", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def frontier() -> Iterator[RunningFrontier]:
    with start_frontier(FrontierSettings(chunk_chars=5, cache_min_tokens=16), TABLE) as running:
        yield running


@pytest.fixture
def gpt(frontier: RunningFrontier) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=frontier.openai_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(frontier: RunningFrontier) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=frontier.url, api_key="any", max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# --- OpenAI -----------------------------------------------------------------------------------


def test_chat_completion_answers_from_the_table_as_compact_json(gpt: openai.OpenAI) -> None:
    raw = gpt.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=user("Where is my café order?")
    )
    completion = ChatCompletion.model_validate_json(raw.text)
    assert completion.choices[0].message.content == FIRST
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage
    assert completion.usage.completion_tokens == estimate_tokens(FIRST)
    assert raw.headers["x-request-id"].startswith("req_")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) > 0


def test_the_text_is_looked_up_with_white_space_and_unicode_folded(gpt: openai.OpenAI) -> None:
    decomposed = "  Where is\nmy cafe\u0301   order? "
    parts = [{"type": "text", "text": decomposed}]
    for content in (decomposed, parts, json.dumps({"text": decomposed, "metadata": {}})):
        answer = gpt.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "system", "content": "classify"}, *user(content)],  # type: ignore[arg-type]
        )
        assert answer.choices[0].message.content == FIRST


def test_chat_stream_carries_the_same_text_and_usage_last(gpt: openai.OpenAI) -> None:
    chunks = list(
        gpt.chat.completions.create(
            model="gpt-4o",
            messages=user("My card was charged twice"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump())
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert json.loads(text) == TABLE["My card was charged twice"]
    assert len(chunks) > 5
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_chat_stream_helper_of_the_sdk_accepts_it(gpt: openai.OpenAI) -> None:
    with gpt.chat.completions.stream(model="gpt-4o", messages=user("plain words")) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "a plain answer"


@pytest.mark.parametrize("streamed", [False, True])
def test_choices_and_logprobs_are_given_when_asked_for(gpt: openai.OpenAI, streamed: bool) -> None:
    answer = gpt.chat.completions.create(  # type: ignore[call-overload]
        model="gpt-4o", messages=user("plain words"), n=3, logprobs=True, stream=streamed
    )
    if not streamed:
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.choices[2].logprobs.content[0].token == "a plain answer"
        return
    texts = ["", "", ""]
    for chunk in answer:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["a plain answer"] * 3


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": TOOL}])
def test_a_required_tool_is_called_with_the_answer(gpt: openai.OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {
        "model": "gpt-4o",
        "messages": user("request 3"),
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": choice,
    }
    answer = gpt.chat.completions.create(**asked)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "classify",
        TABLE["request 3"],
    )
    with gpt.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.message.tool_calls is not None
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    assert streamed.finish_reason == answer.choices[0].finish_reason == "tool_calls"


def test_the_token_limit_cuts_the_answer_and_says_so(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(
        model="gpt-4o", messages=user("My card was charged twice"), max_completion_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 2


def test_responses_whole_and_streamed_agree(gpt: openai.OpenAI) -> None:
    raw = gpt.responses.with_raw_response.create(
        model="gpt-4o", instructions="classify", input="request 9"
    )
    whole = Response.model_validate_json(raw.text)
    assert json.loads(whole.output_text) == TABLE["request 9"]
    assert whole.usage
    assert whole.usage.output_tokens > 0
    with gpt.responses.stream(model="gpt-4o", input=user("request 9")) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_responses_call_a_required_tool(gpt: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "gpt-4o",
        "input": "request 9",
        "tools": [{"type": "function", "strict": False, **TOOL}],
        "tool_choice": "required",
    }
    whole = gpt.responses.create(**asked).output[0]
    with gpt.responses.stream(**asked) as stream:
        streamed = stream.get_final_response().output[0]
    assert whole.arguments == streamed.arguments
    assert json.loads(whole.arguments) == TABLE["request 9"]


def test_a_repeated_long_prefix_counts_as_cached(gpt: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "a long instruction " * 60}, *user("request 1")]
    first, second = (
        gpt.chat.completions.create(model="gpt-4o", messages=messages).usage for _ in range(2)
    )
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens == 256
    assert first.prompt_tokens == second.prompt_tokens == 285 + 3 + 2 * 4


# --- Anthropic --------------------------------------------------------------------------------


def test_message_answers_from_the_table(claude: anthropic.Anthropic) -> None:
    raw = claude.messages.with_raw_response.create(
        model=CLAUDE, max_tokens=100, system="classify", messages=user("request 2")
    )
    message = anthropic.types.Message.model_validate_json(raw.text())
    assert json.loads(message.content[0].text) == TABLE["request 2"]  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    assert raw.headers["request-id"].startswith("req_")
    assert raw.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


def test_message_stream_carries_the_same_message(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 100, "messages": user("request 2")}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert kinds[-1] == "message_stop"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "classify"}])
def test_a_required_tool_is_used(claude: anthropic.Anthropic, choice: Any) -> None:
    asked: dict[str, Any] = {
        "model": CLAUDE,
        "max_tokens": 100,
        "messages": user("request 5"),
        "tools": [{"name": "classify", "input_schema": {"type": "object"}}],
        "tool_choice": choice,
    }
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert whole.content[0].input == streamed.content[0].input == TABLE["request 5"]
    assert whole.stop_reason == streamed.stop_reason == "tool_use"


def test_marked_prefixes_are_written_to_the_cache_then_read(claude: anthropic.Anthropic) -> None:
    system = [
        {"type": "text", "text": "rules " * 40, "cache_control": {"type": "ephemeral"}},
    ]
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 9, "system": system}
    first, second = (
        claude.messages.create(**asked, messages=user(f"request {n}")).usage for n in (1, 2)
    )
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens) == (60, 0)
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (0, 60)
    assert first.input_tokens == second.input_tokens


def test_tokens_are_counted_as_they_are_billed(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model=CLAUDE, messages=user("request 2"))
    message = claude.messages.create(model=CLAUDE, max_tokens=9, messages=user("request 2"))
    assert counted.input_tokens == message.usage.input_tokens


def test_models_are_listed_to_both(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    assert "gpt-4o" in [model.id for model in gpt.models.list()]
    assert CLAUDE in [model.id for model in claude.models.list()]


async def test_async_clients_stream_concurrently(frontier: RunningFrontier) -> None:
    async def ask_gpt(client: openai.AsyncOpenAI, n: int) -> str:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=user(f"request {n}"), stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def ask_claude(client: anthropic.AsyncAnthropic, n: int) -> str:
        async with client.messages.stream(
            model=CLAUDE, max_tokens=99, messages=user(f"request {n}")
        ) as stream:
            return await stream.get_final_text()

    async with (
        openai.AsyncOpenAI(base_url=frontier.openai_url, api_key="any") as one,
        anthropic.AsyncAnthropic(base_url=frontier.url, api_key="any") as other,
    ):
        asked = [ask_gpt(one, n) for n in range(10)] + [ask_claude(other, n) for n in range(10)]
        answers = await asyncio.gather(*asked)
    assert [json.loads(a) for a in answers] == [TABLE[f"request {n}"] for n in range(10)] * 2


# --- faults -----------------------------------------------------------------------------------


def test_unknown_texts_get_the_fallback_or_their_echo(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model="gpt-4o", messages=user("never heard"))
    assert json.loads(answer.choices[0].message.content or "") == {"answer": "I cannot tell"}
    assert Answers(FrontierSettings(fallback_text=None), TABLE).draw("never").text == "never"


def test_bad_requests_are_refused_in_each_providers_shape(
    gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gpt.chat.completions.create(model="", messages=user("x"))
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError) as other:
        claude.messages.create(model=CLAUDE, max_tokens=9, messages=[])
    assert other.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        gpt.embeddings.create(model="none", input="x")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[1]}', 400),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[{}],"n":0.5}', 400),
        ("POST", "/v1/messages", b'{"model":"m","messages":[{}]}', 400),
        ("POST", "/v1/responses", b'{"model":"m"}', 400),
        ("GET", "/v1/messages", b"", 405),
        ("POST", "/v1/models", b"", 405),
        ("GET", "/", b"", 404),
        ("POST", "/chat/completions", b'{"model":"m","messages":[{"role":"user"}]}', 200),
    ],
)
def test_raw_requests(
    frontier: RunningFrontier, method: str, path: str, body: bytes, status: int
) -> None:
    assert httpx.request(method, frontier.url + path, content=body).status_code == status


async def ask(settings: FrontierSettings, texts: list[str]) -> AsyncIterator[httpx.Response]:
    transport = httpx.ASGITransport(create_frontier(settings, TABLE))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for text in texts:
            body = {"model": "m", "messages": user(text)}
            yield await client.post("/v1/chat/completions", json=body)


async def test_injected_errors_come_in_their_share_and_in_the_same_order() -> None:
    settings = FrontierSettings(error_share=0.2, overload_share=0.1)
    runs = [[r.status_code async for r in ask(settings, ["request 1"] * 600)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert 0.15 < runs[0].count(500) / 600 < 0.25
    assert 0.06 < runs[0].count(503) / 600 < 0.14


def test_the_sdk_recovers_from_rate_limits_overload_and_cut_streams_fail() -> None:
    settings = FrontierSettings(rate_limit=2, rate_window_s=0.5)
    with (
        start_frontier(settings, TABLE) as running,
        openai.OpenAI(base_url=running.openai_url, api_key="any") as client,
    ):
        for _ in range(4):
            client.chat.completions.create(model="m", messages=user("request 1"))
        with anthropic.Anthropic(base_url=running.url, api_key="k", max_retries=0) as other:
            limited = [_limited(other) for _ in range(3)]
        assert running.calls().limited >= 2
    late = next(error for error in limited if error)
    assert late.response.headers["retry-after"] == "1"
    assert late.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]


def _limited(client: anthropic.Anthropic) -> anthropic.RateLimitError | None:
    try:
        client.messages.create(model=CLAUDE, max_tokens=9, messages=user("request 1"))
    except anthropic.RateLimitError as error:
        return error
    return None


def test_keys_overload_and_cut_streams() -> None:
    settings = FrontierSettings(require_key="right", overload_share=0.5, cut_share=1.0, seed=3)
    assert "right" not in repr(settings)
    with start_frontier(settings, TABLE) as running:
        with (
            openai.OpenAI(base_url=running.openai_url, api_key="wrong") as wrong,
            pytest.raises(openai.AuthenticationError),
        ):
            wrong.chat.completions.create(model="m", messages=user("request 1"))
        with httpx.Client(base_url=running.url) as client:
            seen = {_outcome(client) for _ in range(20)}
    assert seen == {"overloaded_error", "cut"}


def _outcome(client: httpx.Client) -> str:
    body = {"model": CLAUDE, "max_tokens": 99, "messages": user("request 1"), "stream": True}
    headers = {"x-api-key": "right", "anthropic-version": "2023-06-01"}
    try:
        response = client.post("/v1/messages", json=body, headers=headers)
    except httpx.RemoteProtocolError:
        return "cut"
    return str(response.json()["error"]["type"]) if response.status_code == 529 else "complete"


async def test_latency_is_waited() -> None:
    started = time.perf_counter()
    async for response in ask(FrontierSettings(latency_ms=40, jitter_ms=20), ["request 1"] * 3):
        assert response.status_code == 200
    assert 0.12 <= time.perf_counter() - started < 2


# --- uncertainty ------------------------------------------------------------------------------


def test_the_uncertain_share_is_kept_and_stable() -> None:
    answers = [Answers(FrontierSettings(uncertain_share=0.25), TABLE) for _ in range(2)]
    chosen = []
    for table in answers:
        texts = [text for text in TABLE if text.startswith("request")]
        firsts = [table.draw(text) for text in texts]
        assert [json.loads(drawn.text) for drawn in firsts] == [TABLE[text] for text in texts]
        chosen.append({text for text in texts if table.draw(text).resample})
    assert chosen[0] == chosen[1]
    assert 0.17 < len(chosen[0]) / 400 < 0.33


def test_every_resample_of_an_uncertain_text_is_another_known_answer() -> None:
    answers = Answers(FrontierSettings(uncertain_share=1.0), TABLE)
    drawn = [answers.draw("request 5").text for _ in range(6)]
    assert len(set(drawn)) == 6
    labels = [value if isinstance(value, str) else json.dumps(value) for value in TABLE.values()]
    assert {fold(text) for text in drawn} <= {
        fold(x).replace(": ", ":").replace(", ", ",") for x in labels
    }


# --- the process ------------------------------------------------------------------------------


def test_calls_are_counted() -> None:
    with start_frontier(FrontierSettings(), TABLE) as running:
        for text in ("request 1", "never heard"):
            body = {"model": "m", "messages": user(text)}
            httpx.post(f"{running.url}/v1/chat/completions", json=body)
        httpx.post(f"{running.url}/v1/messages", content=b"?")
        calls = running.calls()
    assert (calls.requests, calls.answered, calls.known, calls.unknown) == (3, 2, 1, 1)
    assert calls.refused == 1
    assert calls.input_tokens > 0
    running.stop()
    with pytest.raises(RemoteError, match="does not answer"):
        running.calls()


def test_it_ends_with_the_process_that_started_it() -> None:
    program = (
        "import os, sys\n"
        "from apprentice_pipeline.demo.frontier import FrontierSettings, start_frontier\n"
        "running = start_frontier(FrontierSettings(), {})\n"
        "print(running.process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    for _ in range(100):
        if not _alive(child):
            return
        time.sleep(0.05)
    pytest.fail("the stand-in outlived its parent")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(UsageError, match=r"error_share.*latency_ms"):
        FrontierSettings(error_share=2, latency_ms=-1)


def test_the_command_serves_a_file(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"text": "hello", "kind": "greeting"}\n')
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "apprentice_pipeline.demo.frontier"),
            *("--answers", str(answers), "--port", "0", "--latency-ms", "1"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr
    url = process.stderr.readline().split()[-1]
    body = {"model": "m", "messages": user("hello")}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body).json()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert answer["choices"][0]["message"]["content"] == '{"kind":"greeting"}'


@pytest.mark.parametrize(
    ("argv", "cause"),
    [
        ([], "--answers FILE.jsonl is missing"),
        (["--answers", "absent.jsonl"], "absent.jsonl cannot be read"),
    ],
)
def test_the_command_says_why_it_cannot_start(
    argv: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert cause in capsys.readouterr().err


def test_a_table_that_is_no_json_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="what JSON cannot"):
        start_frontier(FrontierSettings(), {"text": object()})


# --- answers of more than text ------------------------------------------------------------------

PARTS: dict[str, Any] = {
    "all": {
        "$reply": {
            "text": "Looking.",
            "thinking": "First this.",
            "calls": [{"name": "classify", "arguments": {"a": 1}}],
        }
    },
    "never": {"$reply": {"refusal": "I will not."}},
    "filtered": {"$reply": {"text": "half", "stop": "content_filter"}},
}


@pytest.fixture
def parted() -> Iterator[RunningFrontier]:
    with start_frontier(FrontierSettings(repeatable=True), PARTS) as running:
        yield running


def test_what_the_request_gives_no_room_for_is_left_out(parted: RunningFrontier) -> None:
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 99, "messages": user("all")}
    tools = [{"name": "classify", "input_schema": {"type": "object"}}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with anthropic.Anthropic(base_url=parted.url, api_key="any") as client:
        plain = client.messages.create(**asked)
        full = client.messages.create(**asked, tools=tools, thinking=thinking)
    assert [block.type for block in plain.content] == ["text"]
    assert [block.type for block in full.content] == ["thinking", "text", "tool_use"]
    assert (plain.stop_reason, full.stop_reason) == ("end_turn", "tool_use")


def test_it_refuses_and_stops_as_each_provider_says_it(parted: RunningFrontier) -> None:
    with openai.OpenAI(base_url=parted.openai_url, api_key="any") as client:
        refused = client.chat.completions.create(model="gpt-4o", messages=user("never")).choices[0]
        stopped = client.responses.create(model="gpt-4o", input="filtered")
    assert (refused.message.content, refused.message.refusal) == (None, "I will not.")
    assert stopped.incomplete_details is not None
    assert (stopped.status, stopped.incomplete_details.reason) == ("incomplete", "content_filter")


def test_two_repeatable_stand_ins_answer_the_same_bytes(parted: RunningFrontier) -> None:
    def ask(url: str) -> list[bytes]:
        body = {"model": "gpt-4o", "messages": user("all")}
        with httpx.Client(base_url=url) as client:
            made = client.post("/v1/files", files={"file": ("a.txt", b"abc")})
            return [
                made.content,
                client.get(f"/v1/files/{made.json()['id']}/content").content,
                client.post("/v1/chat/completions", json=body).content,
                client.post("/v1/chat/completions", json={**body, "stream": True}).content,
            ]

    with start_frontier(FrontierSettings(repeatable=True), PARTS) as other:
        assert ask(parted.url) == ask(other.url)
