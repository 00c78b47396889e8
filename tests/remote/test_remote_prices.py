"""Prices: exact names and their versions only, Decimal arithmetic, bounds that hold."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.config import Price
from apprentice_pipeline.errors import PriceUnknown
from apprentice_pipeline.reading.pricing import Pricing
from apprentice_pipeline.records import Usage
from apprentice_pipeline.remote.prices import LISTINGS, cost_usd, maximum_cost_usd, price_of

OVERRIDES = {"house-model": Price(input=Decimal(1), output=Decimal(2))}


@pytest.mark.parametrize(
    ("model", "input_usd"),
    [
        ("claude-sonnet-4-5-20250929", "3"),
        ("claude-sonnet-4-5", "3"),
        ("claude-sonnet-4-20250514", "3"),
        ("claude-opus-4-5@20251101", "5"),
        ("claude-opus-4-1-20250805", "15"),
        ("claude-3-5-haiku-latest", "0.80"),
        ("gpt-4o", "2.50"),
        ("gpt-4o-2024-08-06", "2.50"),
        ("gpt-4o-2024-05-13", "5"),
        ("gpt-4o-mini-2024-07-18", "0.15"),
        ("gpt-5-2025-08-07", "1.25"),
        ("gpt-4-0613", "30"),
        ("gemini-2.5-flash", "0.30"),
        ("gemini-2.5-flash-lite", "0.10"),
        ("gemini-2.5-flash-001", "0.30"),
        ("gemini-2.5-pro", "1.25"),
    ],
)
def test_a_name_stands_for_its_dated_versions(model: str, input_usd: str) -> None:
    price = price_of(model)
    assert price is not None
    assert price.input == Decimal(input_usd)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o-audio-preview",
        "gpt-4o-minimal",
        "ft:gpt-4o:acme",
        "claude",
        "",
        "gpt-50",
        "gemini-2.5",
    ],
)
def test_a_name_that_merely_begins_alike_has_no_price(model: str) -> None:
    assert price_of(model) is None


def test_an_override_comes_first_and_stands_for_versions_too() -> None:
    mine = {"gpt-4o": Price(input=Decimal(7), output=Decimal(8))}
    for model in ("gpt-4o", "gpt-4o-2024-08-06"):
        price = price_of(model, mine)
        assert price is not None
        assert price.input == Decimal(7)


def test_a_call_costs_its_tokens() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=100, source="provider")
    assert cost_usd("openai", "gpt-4o", usage) == pytest.approx(0.0035)


def test_cached_and_written_tokens_have_prices_of_their_own() -> None:
    usage = Usage(
        input_tokens=1_000, output_tokens=0, cached_tokens=600, cache_write_tokens=300, source="p"
    )
    expected = (100 * 3 + 600 * 0.30 + 300 * 3.75) / 1e6
    assert cost_usd("anthropic", "claude-sonnet-4-5", usage) == pytest.approx(expected)


HOUR = Usage(100_000, 0, 0, 100_000, "provider", hour_write_tokens=100_000)
MIXED = Usage(30_000, 10, 5_000, 20_000, "provider", hour_write_tokens=8_000)


@pytest.mark.parametrize("pricing", [cost_usd, Pricing({}).cost_usd], ids=["prices", "gateway"])
def test_a_cache_kept_for_an_hour_is_written_at_twice_the_input(pricing: Any) -> None:
    assert pricing("anthropic", "claude-haiku-4-5", HOUR) == pytest.approx(0.20)
    expected = (5_000 * 1 + 5_000 * 0.10 + 12_000 * 1.25 + 8_000 * 2 + 10 * 5) / 1e6
    assert pricing("anthropic", "claude-haiku-4-5", MIXED) == pytest.approx(expected)
    short = Usage(1_000, 0, 0, 1_000, "provider", hour_write_tokens=0)
    assert pricing("anthropic", "claude-haiku-4-5", short) == pytest.approx(0.00125)


@pytest.mark.parametrize("pricing", [cost_usd, Pricing({}).cost_usd], ids=["prices", "gateway"])
@pytest.mark.parametrize("tier", ["flex", "priority", "batch", "a-tier-of-tomorrow"])
def test_a_service_tier_of_unknown_price_has_no_cost(pricing: Any, tier: str) -> None:
    usage = Usage(1_000, 10, source="provider", service_tier=tier)
    assert pricing("openai", "gpt-4o", usage) is None
    assert pricing("openai", "gpt-4o", usage._replace(service_tier="")) is not None


def test_without_a_cache_price_cached_tokens_cost_like_any() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=0, cached_tokens=600)
    assert cost_usd("openai", "house-model", usage, OVERRIDES) == pytest.approx(0.001)


def test_long_prompts_cost_more_where_the_provider_says_so() -> None:
    short = cost_usd("openai", "gpt-5.4", Usage(input_tokens=272_000, output_tokens=0))
    long = cost_usd("openai", "gpt-5.4", Usage(input_tokens=272_001, output_tokens=0))
    assert short is not None
    assert long == pytest.approx(2 * short, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("gpt-4o", Usage()),
        ("gpt-4o", Usage(input_tokens=5)),
        ("no-such-model", Usage(input_tokens=5, output_tokens=5)),
    ],
)
def test_what_is_unknown_has_no_cost(model: str, usage: Usage) -> None:
    assert cost_usd("openai", model, usage) is None


def test_an_unknown_price_fails_closed_and_names_the_key_to_set() -> None:
    with pytest.raises(PriceUnknown, match="'no-such-model' is unknown") as refused:
        maximum_cost_usd("no-such-model", 100, 100)
    assert "remote.prices" in refused.value.remedy
    assert "no-such-model" in refused.value.remedy


def test_the_maximum_is_a_decimal_with_the_models_own_limit() -> None:
    assert maximum_cost_usd("gpt-4o", 1_000, None) == Decimal("0.0025") + 16_384 * Decimal(
        "0.00001"
    )


@given(
    st.sampled_from(sorted(LISTINGS)),
    st.integers(0, 2_000_000),
    st.integers(0, 4_000),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_call_costs_more_than_its_maximum(
    model: str, size: int, output: int, tokens: float, cached: float
) -> None:
    """A request of so many bytes has at most so many tokens, however they are cached."""
    input_tokens = int(size * tokens)
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output,
        cached_tokens=int(input_tokens * cached),
        cache_write_tokens=input_tokens - int(input_tokens * cached),
    )
    cost = cost_usd("any", model, usage)
    assert cost is not None
    assert cost <= float(maximum_cost_usd(model, size, output)) * (1 + 1e-12)
