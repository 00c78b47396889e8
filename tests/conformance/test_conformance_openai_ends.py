"""The official `openai` SDK where an answer is no pair: errors, cuts, retries, leaving."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.conformance.conformance_leaving import cancelled_after, cancelled_in
from tests.conformance.conformance_openai import (
    LONG,
    MODEL,
    REFUSAL,
    ask,
    asynchronous,
    respond,
    sync,
    user,
)
from tests.conformance.conftest import Both, Run

# --- what is an exchange and no pair ------------------------------------------------------------


def is_whole(run: Run) -> tuple[bool, bool, str]:
    return run.row.is_pair, run.row.complete, run.row.ending


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_cut_by_its_limit_is_no_pair(both: Both, streamed: bool) -> None:
    run = both(ask(messages=user("ping"), max_completion_tokens=3, stream=streamed), {"ping": LONG})
    assert is_whole(run) == (False, True, "cut")
    assert run.row.output == LONG[:12]
    run = both(respond(input="ping", max_output_tokens=3, stream=streamed), {"ping": LONG})
    assert is_whole(run) == (False, True, "cut")
    assert run.row.output == LONG[:12]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_stopped_by_the_filter_is_no_pair(both: Both, streamed: bool) -> None:
    table = {"ping": {"$reply": {"text": "half an", "stop": "content_filter"}}}
    for call in (
        ask(messages=user("ping"), stream=streamed),
        respond(input="ping", stream=streamed),
    ):
        run = both(call, table)
        assert is_whole(run) == (False, True, "cut")
        assert run.row.output == "half an"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_is_kept_whole_and_no_pair(both: Both, streamed: bool) -> None:
    for call in (
        ask(messages=user("ping"), stream=streamed),
        respond(input="ping", stream=streamed),
    ):
        run = both(call, {"ping": REFUSAL})
        assert is_whole(run) == (False, True, "refused")
        kept = [{"type": "refusal", "refusal": REFUSAL["$reply"]["refusal"]}]
        assert run.row.output == {"content": kept, "tool_calls": []}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"error_share": 1.0}, openai.InternalServerError),
        ({"overload_share": 1.0}, openai.InternalServerError),
        ({"rate_limit": 0}, openai.RateLimitError),
        ({"require_key": "sk-other"}, openai.AuthenticationError),
    ],
)
def test_an_error_is_an_exchange_and_no_pair(
    both: Both, streamed: bool, settings: Any, error: type[openai.APIStatusError]
) -> None:
    def work(client: openai.OpenAI) -> Any:
        with pytest.raises(error) as raised:
            client.chat.completions.create(model=MODEL, messages=user("ping"), stream=streamed)
        return (
            raised.value.status_code,
            raised.value.body,
            dict(raised.value.response.headers)["x-request-id"],
        )

    run = both(sync(work), {"ping": "pong"}, **settings)
    assert (run.row.is_pair, run.row.status, run.row.output) == (False, run.value[0], None)
    assert run.row.input["messages"] == user("ping")


def test_a_request_that_the_provider_does_not_understand(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model=MODEL, messages=[])
        return raised.value.body

    run = both(sync(work))
    assert (run.row.is_pair, run.row.status) == (False, 400)


def test_a_stream_that_the_provider_breaks_off(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        got: list[Any] = []
        chunks = client.chat.completions.create(model=MODEL, messages=user("ping"), stream=True)
        with pytest.raises(Exception, match=r"incomplete|Connection error") as raised:
            got.extend(chunk.model_dump() for chunk in chunks)
        return got, type(raised.value).__name__

    run = both(sync(work), {"ping": LONG}, cut_share=1.0)
    assert run.value[0]
    assert (run.row.is_pair, run.row.complete) == (False, False)
    assert LONG.startswith(run.row.output)


# --- retries, timeouts, leaving -----------------------------------------------------------------


def test_the_sdk_s_retries_are_each_an_exchange(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        return client.chat.completions.create(model=MODEL, messages=user("ping")).model_dump()

    run = both(sync(work, max_retries=9), {"ping": "pong"}, error_share=0.5, seed=8)
    assert [row.is_pair for row in run.rows] == [False] * (len(run.rows) - 1) + [True]
    assert len(run.rows) > 1
    counts = [dict(seen.request.headers)["x-stainless-retry-count"] for seen in run.seen]
    assert counts == [str(number) for number in range(len(run.seen))]


def test_a_client_whose_time_is_up_leaves_a_stream(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        with pytest.raises(Exception, match=r"[Tt]imed out"):
            list(client.chat.completions.create(model=MODEL, messages=user("ping"), stream=True))

    run = both(sync(work, timeout=0.5), {"ping": LONG}, alike=False, chunk_delay_ms=60_000.0)
    assert (run.row.is_pair, run.row.complete) == (False, False)


def test_a_client_whose_time_is_up_leaves_a_whole_answer_that_is_kept(both: Both) -> None:
    """It is paid for: the gateway waits for it, and it is a pair."""

    def work(client: openai.OpenAI) -> Any:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model=MODEL, messages=user("ping"))

    run = both(sync(work, timeout=0.5), {"ping": LONG}, alike=False, latency_ms=1_500.0)
    assert (run.row.is_pair, run.row.output) == (True, LONG)


def test_a_client_that_leaves_mid_stream_ends_the_upstream_call(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        stream = client.chat.completions.create(model=MODEL, messages=user("ping"), stream=True)
        first = [next(stream).model_dump() for _ in range(3)]
        stream.close()
        return first

    run = both(sync(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)
    assert (LONG * 40).startswith(run.row.output)
    assert run.row.output


def test_a_response_that_is_left_mid_stream_ends_the_upstream_call(both: Both) -> None:
    def work(client: openai.OpenAI) -> Any:
        stream = client.responses.create(model=MODEL, input="ping", stream=True)
        first = [next(stream).type for _ in range(6)]
        stream.close()
        return first

    run = both(sync(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert run.value[-1] == "response.output_text.delta"
    assert (run.row.endpoint, run.row.is_pair, run.row.complete) == ("responses", False, False)
    assert (LONG * 40).startswith(run.row.output)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_task_that_is_cancelled_mid_stream_ends_the_upstream_call(
    both: Both, endpoint: str
) -> None:
    async def work(client: openai.AsyncOpenAI) -> Any:
        if endpoint == "chat":
            asked: Any = client.chat.completions.create(
                model=MODEL, messages=user("ping"), stream=True
            )
        else:
            asked = client.responses.create(model=MODEL, input="ping", stream=True)
        await cancelled_in(asked)

    run = both(asynchronous(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_task_that_is_cancelled_mid_call_leaves_an_answer_that_is_kept(
    both: Both, endpoint: str
) -> None:
    """As a client whose time is up: what is paid for is kept."""

    async def work(client: openai.AsyncOpenAI) -> Any:
        if endpoint == "chat":
            asked: Any = client.chat.completions.create(model=MODEL, messages=user("ping"))
        else:
            asked = client.responses.create(model=MODEL, input="ping")
        await cancelled_after(asked, 0.5)

    run = both(asynchronous(work), {"ping": LONG}, alike=False, latency_ms=1_500.0)
    assert (run.row.is_pair, run.row.output) == (True, LONG)
