"""The official `anthropic` SDK where an answer is no pair: errors, cuts, retries, leaving."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.conformance.conformance_anthropic import (
    LONG,
    MODEL,
    REFUSAL,
    ask,
    asynchronous,
    sync,
    user,
)
from tests.conformance.conformance_leaving import cancelled_after, cancelled_in
from tests.conformance.conftest import Both

# --- what is an exchange and no pair ------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_cut_by_its_limit_is_no_pair(both: Both, streamed: bool) -> None:
    run = both(ask(messages=user("ping"), max_tokens=3, stream=streamed), {"ping": LONG})
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, "cut")
    assert run.row.output == LONG[:12]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stop", ["model_context_window_exceeded", "pause_turn"])
def test_an_answer_that_stopped_half_way_is_no_pair(both: Both, streamed: bool, stop: str) -> None:
    table = {"ping": {"$reply": {"text": "half an", "stop": stop}}}
    run = both(ask(messages=user("ping"), stream=streamed), table)
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, "cut")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_is_kept_whole_and_no_pair(both: Both, streamed: bool) -> None:
    run = both(ask(messages=user("ping"), stream=streamed), {"ping": REFUSAL})
    assert (run.row.is_pair, run.row.complete, run.row.ending) == (False, True, "refused")
    assert run.row.output == REFUSAL["$reply"]["refusal"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"error_share": 1.0}, anthropic.InternalServerError),
        ({"overload_share": 1.0}, anthropic.APIStatusError),
        ({"rate_limit": 0}, anthropic.RateLimitError),
        ({"require_key": "sk-other"}, anthropic.AuthenticationError),
    ],
)
def test_an_error_is_an_exchange_and_no_pair(
    both: Both, streamed: bool, settings: Any, error: type[anthropic.APIStatusError]
) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        with pytest.raises(error) as raised:
            client.messages.create(
                model=MODEL, max_tokens=50, messages=user("ping"), stream=streamed
            )
        return raised.value.status_code, raised.value.body

    run = both(sync(work), {"ping": "pong"}, **settings)
    assert (run.row.is_pair, run.row.status, run.row.output) == (False, run.value[0], None)


def test_a_stream_that_the_provider_breaks_off(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        got: list[Any] = []
        events = client.messages.create(
            model=MODEL, max_tokens=2_000, messages=user("ping"), stream=True
        )
        with pytest.raises(Exception, match=r"incomplete|Connection error") as raised:
            got.extend(event.model_dump() for event in events)
        return got, type(raised.value).__name__

    run = both(sync(work), {"ping": LONG}, cut_share=1.0)
    assert (run.row.is_pair, run.row.complete) == (False, False)
    assert LONG.startswith(run.row.output)


# --- retries, timeouts, leaving -----------------------------------------------------------------


def test_the_sdk_s_retries_are_each_an_exchange(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        return client.messages.create(
            model=MODEL, max_tokens=50, messages=user("ping")
        ).model_dump()

    run = both(sync(work, max_retries=9), {"ping": "pong"}, overload_share=0.5, seed=8)
    assert [row.is_pair for row in run.rows] == [False, True]


def test_a_client_that_leaves_mid_stream_ends_the_upstream_call(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        with client.messages.stream(model=MODEL, max_tokens=2_000, messages=user("ping")) as stream:
            return next(iter(stream.text_stream))

    run = both(sync(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)
    assert (LONG * 40).startswith(run.row.output)


def test_a_client_whose_time_is_up_leaves_a_stream(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        asked: Any = {"model": MODEL, "max_tokens": 50, "messages": user("ping")}
        with pytest.raises(Exception, match=r"[Tt]imed out"):
            list(client.messages.create(**asked, stream=True))

    run = both(sync(work, timeout=0.5), {"ping": LONG}, alike=False, chunk_delay_ms=60_000.0)
    assert (run.row.is_pair, run.row.complete) == (False, False)


def test_a_client_whose_time_is_up_leaves_a_whole_answer_that_is_kept(both: Both) -> None:
    """It is paid for: the gateway waits for it, and it is a pair."""

    def work(client: anthropic.Anthropic) -> Any:
        with pytest.raises(anthropic.APITimeoutError):
            client.messages.create(model=MODEL, max_tokens=50, messages=user("ping"))

    run = both(sync(work, timeout=0.5), {"ping": LONG}, alike=False, latency_ms=1_500.0)
    assert (run.row.is_pair, run.row.output) == (True, LONG)


def test_a_call_that_is_tried_again_after_a_timeout_is_one_exchange_each_time(both: Both) -> None:
    def work(client: anthropic.Anthropic) -> Any:
        with pytest.raises(anthropic.APITimeoutError):
            client.messages.create(model=MODEL, max_tokens=50, messages=user("ping"))

    settings: Any = {"alike": False, "latency_ms": 1_500.0}
    run = both(sync(work, timeout=0.5, max_retries=1), {"ping": LONG}, **settings)
    assert [(row.is_pair, row.output) for row in run.rows] == [(True, LONG)] * 2
    counts = [dict(seen.request.headers)["x-stainless-retry-count"] for seen in run.seen]
    assert counts == ["0", "1"]


def test_a_task_that_is_cancelled_mid_stream_ends_the_upstream_call(both: Both) -> None:
    async def work(client: anthropic.AsyncAnthropic) -> Any:
        asked: Any = {"model": MODEL, "max_tokens": 2_000, "messages": user("ping")}
        return await cancelled_in(client.messages.create(**asked, stream=True))

    run = both(asynchronous(work), {"ping": LONG * 40}, chunk_delay_ms=50.0, left=1)
    assert run.value == "message_start"
    assert (run.row.is_pair, run.row.complete, run.row.status) == (False, False, 200)


def test_a_task_that_is_cancelled_mid_call_leaves_an_answer_that_is_kept(both: Both) -> None:
    """As a client whose time is up: what is paid for is kept."""

    async def work(client: anthropic.AsyncAnthropic) -> Any:
        asked: Any = {"model": MODEL, "max_tokens": 50, "messages": user("ping")}
        await cancelled_after(client.messages.create(**asked), 0.5)

    run = both(asynchronous(work), {"ping": LONG}, alike=False, latency_ms=1_500.0)
    assert (run.row.is_pair, run.row.output) == (True, LONG)
