"""Pairs as captured traffic would give them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from apprentice_pipeline.records import Pair


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """A verified pair of a user's text and an answer; its dedup key follows from the input."""

    def make(text: str, output: Any = "fine", number: int = 0, **facts: Any) -> Pair:
        messages = [{"role": "user", "content": text}]
        if system := facts.pop("system", None):
            messages.insert(0, {"role": "system", "content": system})
        values: dict[str, Any] = {
            "pair_id": f"pair-{number:05d}",
            "tenant": "acme",
            "namespace": "tickets",
            "created_at_us": 1_000_000 * number,
            "provider": "openai",
            "model": "gpt-4o",
            "input": {"messages": messages, "parameters": {}},
            "output": output,
            "latency_us": 900_000,
            "input_tokens": 20,
            "output_tokens": 8,
            "usage_source": "provider",
            "cost_usd": 0.001,
            "inclusion_probability": 1.0,
            "dedup_key": hashlib.sha256(repr(messages).encode("utf-8", "replace")).digest(),
            "verdict": "verified",
            "confidence": None,
        }
        return Pair(**{**values, **facts})

    return make
