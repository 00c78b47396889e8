"""What a passed-through call cost, quickly.

Belongs here: a memory of `remote.prices` by model. Does not: prices.
A price is looked up once a model: below the long-context thresholds a cost is linear in the
tokens, so four rates tell it; above, and where a cache is kept for an hour, `remote.prices` is
asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from apprentice_pipeline.config import Price
from apprentice_pipeline.records import Usage
from apprentice_pipeline.remote.prices import cost_usd

LINEAR_BELOW = 32_000
_UNIT = 1_000
_MOST_MODELS = 1_000


class _Rates(NamedTuple):
    """US dollars a token."""

    prompt: float
    cached: float
    written: float
    answer: float


class Pricing:
    """Costs of calls by model, with the configuration's overrides."""

    def __init__(self, overrides: Mapping[str, Price]) -> None:
        self._overrides = overrides
        self._rates: dict[str, _Rates | None] = {}

    def cost_usd(self, provider: str, model: str, usage: Usage) -> float | None:
        """As `remote.prices.cost_usd`: None when the price or the tokens are unknown."""
        prompt, answer = usage.input_tokens, usage.output_tokens
        if prompt is None or answer is None or usage.service_tier:
            return None
        if prompt > LINEAR_BELOW or usage.hour_write_tokens:
            return cost_usd(provider, model, usage, self._overrides)
        try:
            rates = self._rates[model]
        except KeyError:
            rates = self._learn(provider, model)
        if rates is None:
            return None
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        return (
            max(0, prompt - cached - written) * rates.prompt
            + cached * rates.cached
            + written * rates.written
            + answer * rates.answer
        )

    def _learn(self, provider: str, model: str) -> _Rates | None:
        units = (
            Usage(_UNIT, 0, 0, 0),
            Usage(_UNIT, 0, _UNIT, 0),
            Usage(_UNIT, 0, 0, _UNIT),
            Usage(0, _UNIT, 0, 0),
        )
        costs = [cost_usd(provider, model, usage, self._overrides) for usage in units]
        known = [cost / _UNIT for cost in costs if cost is not None]
        rates = _Rates(*known) if len(known) == len(units) else None
        if len(self._rates) >= _MOST_MODELS:
            self._rates.clear()
        self._rates[model] = rates
        return rates
