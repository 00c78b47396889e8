"""Pairs made of given answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apprentice_pipeline.records import Pair


@pytest.fixture
def make_pair() -> Callable[..., Pair]:
    """A pair with this output; everything else has a default."""

    def make(output: Any, number: int = 0, **facts: Any) -> Pair:
        values: dict[str, Any] = {
            "pair_id": f"pair-{number:05d}",
            "tenant": "acme",
            "namespace": "tickets",
            "created_at_us": 1_000_000 * number,
            "provider": "openai",
            "model": "gpt-4o",
            "input": {"messages": [{"role": "user", "content": f"request {number}"}]},
            "output": output,
            "latency_us": 900_000,
            "input_tokens": 20,
            "output_tokens": 8,
            "usage_source": "provider",
            "cost_usd": 0.001,
            "inclusion_probability": 1.0,
            "dedup_key": number.to_bytes(8, "big"),
        }
        return Pair(**{**values, **facts})

    return make
