"""One past call, and the facts that decide whether it is one.

Belongs here: the value that every source is read into, names of providers, which answers are
fit to be a pair's. Does not: any source's shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from apprentice_pipeline.records import WHOLE, Usage
from apprentice_pipeline.wire.forms import WireResponse
from apprentice_pipeline.wire.outputs import ending_of

CHAT, RESPONSES, MESSAGES = "chat.completions", "responses", "messages"
_OPENAI: Final = frozenset({"azure", "azure_openai", "openai", "text-completion-openai"})
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class PastCall:
    """One complete, successful call that another system recorded, in our normal forms.

    `input` and `output` as in `records.Exchange`; `created_at_us` is None where the source does
    not say. `record_id` is the source's own id of the call, "" where it has none.
    """

    input: dict[str, Any]
    output: Any
    provider: str = "openai"
    endpoint: str = CHAT
    model: str = "unknown"
    created_at_us: int | None = None
    latency_us: int = 0
    first_byte_us: int | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    streamed: bool = False
    inclusion_probability: float = 1.0
    record_id: str = ""


def is_fit(answer: WireResponse) -> bool:
    """Whether an answer is there and whole: neither empty nor cut, filtered or refused."""
    return bool(answer.output) and ending_of(answer) == WHOLE


def provider_name(said: Any, model: str) -> str:
    """The provider in our words: what the source says, else what the model's name tells."""
    name = said.strip().lower() if isinstance(said, str) else ""
    if name in _OPENAI:
        return "openai"
    if _NAME.fullmatch(name):
        return name
    return "anthropic" if model.startswith("claude") else "openai"


def endpoint_name(provider: str) -> str:
    """The endpoint of a call whose source does not say which it was."""
    return MESSAGES if provider == "anthropic" else CHAT


def bare_model(model: Any, provider: str) -> str:
    """The model without the provider's name before it (`openai/gpt-4o`)."""
    name = model if isinstance(model, str) and model else "unknown"
    return name.removeprefix(f"{provider}/") or "unknown"
