"""What a remote call costs, and the most that it can cost.

Belongs here: list prices, their overrides, the arithmetic (Decimal). Does not: budgets.
A model without a known price has none: nothing is guessed from a similar name.

List prices in USD per million tokens, standard tier, read on 2026-11-21 from published copies
of platform.claude.com/docs/en/about-claude/pricing and developers.openai.com/api/docs/pricing.
Models whose published prices disagreed that day are left out. Gemini's are from memory, checked
that day against others' copies of ai.google.dev/gemini-api/docs/pricing (text, standard tier;
what Google asks for audio and for keeping a cache is not in them). `remote.prices` in
apprentice.yaml comes first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeVar

from apprentice_pipeline.config import Price
from apprentice_pipeline.errors import PriceUnknown
from apprentice_pipeline.records import Usage

MILLION: Final = Decimal(1_000_000)
MOST_OUTPUT_TOKENS: Final = 128_000
"""Answer length assumed for a model whose own limit is not known here."""

_HOUR_WRITE: Final = Decimal(2)
"""Anthropic's price of keeping a prompt for an hour, in prices of its input."""

T = TypeVar("T")

_SUFFIX: Final = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|\d{3}|latest)")


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's list price; beyond `long_after` prompt tokens the long-context factors apply."""

    price: Price
    max_output_tokens: int = MOST_OUTPUT_TOKENS
    long_after: int | None = None
    long_input: Decimal = Decimal(1)
    long_output: Decimal = Decimal(1)


def price_of(model: str, overrides: Mapping[str, Price] | None = None) -> Price | None:
    """The model's price: an override, else the list price; None when neither has it.

    A name also stands for its dated versions (`gpt-4o` for `gpt-4o-2024-08-06`), but never for
    another model that merely begins alike (`gpt-4o-mini`). Of several the longest name wins.
    """
    override = _match(model, overrides or {})
    listing = _match(model, LISTINGS)
    return override or (None if listing is None else listing.price)


def cost_usd(
    provider: str, model: str, usage: Usage, overrides: Mapping[str, Price] | None = None
) -> float | None:
    """What a call cost, None when its price or its tokens are unknown, or its service tier has
    other prices than the list's (flex, priority, batch).

    `usage.input_tokens` is the whole prompt; the part read from a cache and the part written to
    one have prices of their own where the model has them. `provider` does not change the price.
    """
    del provider
    price = price_of(model, overrides)
    if price is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    if usage.service_tier:
        return None
    long_input, long_output = _long_factors(model, usage.input_tokens, overrides)
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    plain = max(0, usage.input_tokens - cached - written)
    cached_price = price.input if price.cached_input is None else price.cached_input
    write_price = price.input if price.cache_write is None else price.cache_write
    for_an_hour = min(written, usage.hour_write_tokens or 0)
    prompt = plain * price.input + cached * cached_price
    prompt += (written - for_an_hour) * write_price
    prompt += for_an_hour * max(write_price, price.input * _HOUR_WRITE)
    answer = usage.output_tokens * price.output
    return float((prompt * long_input + answer * long_output) / MILLION)


def maximum_cost_usd(
    model: str,
    input_bytes: int,
    max_output_tokens: int | None,
    overrides: Mapping[str, Price] | None = None,
) -> Decimal:
    """The most that one text call can cost.

    A token takes at least one byte, so the request's bytes bound its tokens; without
    `max_output_tokens` the model's own limit bounds the answer. Prompts are priced as if all of
    them were written to a cache where that costs more.

    Raises: PriceUnknown, with the configuration key that would set the price.
    """
    price = price_of(model, overrides)
    if price is None:
        raise PriceUnknown(
            f"the price of model {model!r} is unknown, so the cost of a call cannot be bounded",
            remedy=f"set remote.prices in apprentice.yaml: {model}: {{input: …, output: …}} "
            "(USD per million tokens)",
        )
    output_tokens = most_output_tokens(model) if max_output_tokens is None else max_output_tokens
    long_input, long_output = _long_factors(model, input_bytes, overrides)
    dearest = max(price.input, price.cache_write or price.input)
    prompt = input_bytes * dearest * long_input
    return (prompt + output_tokens * price.output * long_output) / MILLION


def most_output_tokens(model: str) -> int:
    """The longest answer the model gives, `MOST_OUTPUT_TOKENS` where that is not known."""
    listing = _match(model, LISTINGS)
    return MOST_OUTPUT_TOKENS if listing is None else listing.max_output_tokens


def _match(model: str, table: Mapping[str, T]) -> T | None:
    if model in table:
        return table[model]
    versions = [
        name for name in table if model.startswith(name) and _SUFFIX.fullmatch(model, pos=len(name))
    ]
    return table[max(versions, key=len)] if versions else None


def _long_factors(
    model: str, prompt_tokens: int, overrides: Mapping[str, Price] | None
) -> tuple[Decimal, Decimal]:
    listing = _match(model, LISTINGS)
    overridden = _match(model, overrides or {}) is not None
    if overridden or listing is None or listing.long_after is None:
        return Decimal(1), Decimal(1)
    if prompt_tokens <= listing.long_after:
        return Decimal(1), Decimal(1)
    return listing.long_input, listing.long_output


def _claude(input_usd: str, output_usd: str, cached: str, written: str, most: int) -> Listing:
    return Listing(
        Price(
            input=Decimal(input_usd),
            output=Decimal(output_usd),
            cached_input=Decimal(cached),
            cache_write=Decimal(written),
        ),
        most,
    )


def _gpt(
    input_usd: str,
    output_usd: str,
    cached: str | None = None,
    *,
    written: str | None = None,
    most: int = MOST_OUTPUT_TOKENS,
    long_after: int | None = None,
) -> Listing:
    price = Price(
        input=Decimal(input_usd),
        output=Decimal(output_usd),
        cached_input=None if cached is None else Decimal(cached),
        cache_write=None if written is None else Decimal(written),
    )
    return Listing(price, most, long_after, Decimal(2), Decimal("1.5"))


def _gemini(
    input_usd: str, output_usd: str, cached: str, *, long_after: int | None = None
) -> Listing:
    price = Price(
        input=Decimal(input_usd), output=Decimal(output_usd), cached_input=Decimal(cached)
    )
    return Listing(price, 65_536, long_after, Decimal(2), Decimal("1.5"))


_HAIKU_5_5: Final = Listing(
    Price(
        input=Decimal("0.10"),
        output=Decimal("0.50"),
        cached_input=Decimal("0.01"),
        cache_write=Decimal("0.125"),
    ),
    128_000,
    long_after=100_000,
    long_input=Decimal(5),
    long_output=Decimal(5),
)

LISTINGS: Final[Mapping[str, Listing]] = {
    "claude-fable-5-1": _claude("10", "50", "0.25", "12.50", 128_000),
    "claude-fable-5": _claude("10", "50", "1", "12.50", 128_000),
    "claude-opus-5": _claude("5", "25", "0.50", "6.25", 128_000),
    "claude-opus-4-8": _claude("5", "25", "0.50", "6.25", 128_000),
    "claude-opus-4-7": _claude("5", "25", "0.50", "6.25", 128_000),
    "claude-opus-4-6": _claude("5", "25", "0.50", "6.25", 128_000),
    "claude-opus-4-5": _claude("5", "25", "0.50", "6.25", 64_000),
    "claude-opus-4-1": _claude("15", "75", "1.50", "18.75", 32_000),
    "claude-opus-4": _claude("15", "75", "1.50", "18.75", 32_000),
    "claude-sonnet-5-5": _claude("2", "10", "0.10", "2.50", 128_000),
    "claude-sonnet-5": _claude("2", "10", "0.20", "2.50", 128_000),
    "claude-sonnet-4-6": _claude("3", "15", "0.30", "3.75", 64_000),
    "claude-sonnet-4-5": _claude("3", "15", "0.30", "3.75", 64_000),
    "claude-sonnet-4": _claude("3", "15", "0.30", "3.75", 64_000),
    "claude-3-7-sonnet": _claude("3", "15", "0.30", "3.75", 64_000),
    "claude-3-5-sonnet": _claude("3", "15", "0.30", "3.75", 8_192),
    "claude-haiku-5-5": _HAIKU_5_5,
    "claude-haiku-4-5": _claude("1", "5", "0.10", "1.25", 64_000),
    "claude-3-5-haiku": _claude("0.80", "4", "0.08", "1", 8_192),
    "claude-3-haiku": _claude("0.25", "1.25", "0.03", "0.30", 4_096),
    "claude-3-opus": _claude("15", "75", "1.50", "18.75", 4_096),
    "gemini-2.5-pro": _gemini("1.25", "10", "0.125", long_after=200_000),
    "gemini-2.5-flash": _gemini("0.30", "2.50", "0.03"),
    "gemini-2.5-flash-lite": _gemini("0.10", "0.40", "0.01"),
    "gpt-5.6-luna": _gpt("0.20", "1.20", "0.02", written="0.25", long_after=200_000),
    "gpt-5.6-terra": _gpt("2", "12", "0.20", written="2.50", long_after=272_000),
    "gpt-5.5": _gpt("5", "30", "0.50", long_after=272_000),
    "gpt-5.5-pro": _gpt("30", "180", long_after=272_000),
    "gpt-5.4": _gpt("2.50", "15", "0.25", long_after=272_000),
    "gpt-5.4-pro": _gpt("30", "180", long_after=272_000),
    "gpt-5.4-mini": _gpt("0.75", "4.50", "0.075"),
    "gpt-5.4-nano": _gpt("0.20", "1.25", "0.02"),
    "gpt-5.3-codex": _gpt("1.75", "14", "0.175"),
    "gpt-5.2": _gpt("1.75", "14", "0.175"),
    "gpt-5.2-pro": _gpt("21", "168"),
    "gpt-5.1": _gpt("1.25", "10", "0.125"),
    "gpt-5": _gpt("1.25", "10", "0.125"),
    "gpt-5-mini": _gpt("0.25", "2", "0.025"),
    "gpt-5-nano": _gpt("0.05", "0.40", "0.005"),
    "gpt-5-pro": _gpt("15", "120"),
    "gpt-4.1": _gpt("2", "8", "0.50", most=32_768),
    "gpt-4.1-mini": _gpt("0.40", "1.60", "0.10", most=32_768),
    "gpt-4.1-nano": _gpt("0.10", "0.40", "0.025", most=32_768),
    "gpt-4o": _gpt("2.50", "10", "1.25", most=16_384),
    "gpt-4o-2024-05-13": _gpt("5", "15", most=4_096),
    "gpt-4o-mini": _gpt("0.15", "0.60", "0.075", most=16_384),
    "chatgpt-4o": _gpt("5", "15", most=16_384),
    "gpt-4-turbo": _gpt("10", "30", most=4_096),
    "gpt-4": _gpt("30", "60", most=8_192),
    "gpt-3.5-turbo": _gpt("0.50", "1.50", most=4_096),
    "o1": _gpt("15", "60", "7.50", most=100_000),
    "o1-pro": _gpt("150", "600", most=100_000),
    "o1-mini": _gpt("1.10", "4.40", "0.55", most=65_536),
    "o3": _gpt("2", "8", "0.50", most=100_000),
    "o3-pro": _gpt("20", "80", most=100_000),
    "o3-mini": _gpt("1.10", "4.40", "0.55", most=100_000),
    "o4-mini": _gpt("1.10", "4.40", "0.275", most=100_000),
}
