"""A call of ours, paid for: what is held beforehand is the most that it can cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from apprentice_pipeline.control.budget import Period
from apprentice_pipeline.errors import BudgetExhausted, PriceUnknown
from apprentice_pipeline.records import Answer, Usage, now_us
from apprentice_pipeline.routing.spending import Call, Spending, most_usd

MESSAGES = [{"role": "user", "content": "my invoice is wrong"}]
ONE_TOKEN = Decimal(10) / 1_000_000
"""What a token of gpt-4o's answer costs."""


def call(**parameters: Any) -> Call:
    request = {"messages": MESSAGES, "parameters": parameters}
    return Call("default", "tickets", "resample", "gpt-4o", request)


def test_as_many_answers_as_are_asked_for_are_counted_each_at_its_longest() -> None:
    one, three = most_usd(call(max_tokens=50, n=1), {}), most_usd(call(max_tokens=50, n=3), {})
    assert three - one == 2 * 50 * ONE_TOKEN
    assert most_usd(call(max_output_tokens=50, n=2), {}) > one + 50 * ONE_TOKEN
    assert most_usd(call(n=2), {}) > 2 * 16_384 * ONE_TOKEN
    assert most_usd(call(max_tokens=50, n=0), {}) == one


def test_without_a_price_there_is_no_bound() -> None:
    unknown = Call("default", "tickets", "run", "no-such-model", {"messages": MESSAGES})
    with pytest.raises(PriceUnknown, match="no-such-model"):
        most_usd(unknown, {})


async def test_what_is_held_while_the_call_runs_is_its_maximum(workspace: Any) -> None:
    asked = call(max_tokens=50, n=3)
    held: list[Decimal] = []

    async def ask() -> Answer:
        held.append(workspace.state.spent(now_us=now_us()).reserved[Period.DAY])
        return Answer("x", "gpt-4o", "remote", 1, Usage(6, 3, None, None, "provider"), 0.0001)

    await Spending(workspace).call(asked, ask)
    assert held == [most_usd(asked, {})]
    after = workspace.state.spent(now_us=now_us())
    assert (after.spent[Period.DAY], after.reserved[Period.DAY]) == (Decimal("0.0001"), 0)


async def test_a_budget_that_covers_one_answer_does_not_cover_three(home: Any) -> None:
    home.configure(f"budget: {{daily: {most_usd(call(max_tokens=50, n=1), {})}}}\n")

    async def ask() -> Answer:
        return Answer("x", "gpt-4o", "remote", 1, Usage(6, 3, None, None, "provider"), 0.0)

    with home.open() as workspace:
        spending = Spending(workspace)
        with pytest.raises(BudgetExhausted):
            await spending.call(call(max_tokens=50, n=3), ask)
        assert (await spending.call(call(max_tokens=50, n=1), ask)).output == "x"
