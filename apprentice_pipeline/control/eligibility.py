"""Which requests the local model may answer at all, before it is even asked.

Belongs here: facts of a request against facts of a champion. Does not: confidence (that is
judged after the answer), phases, budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNSEEN_PROMPT: Final = "system prompt not seen in training"
TOO_LONG: Final = "more tokens than the context holds"
COUNTED_FEATURES: Final = frozenset(
    {
        "tools", "images", "n", "logprobs", "response_format", "thinking", "stop", "logit_bias",
        "presence_penalty", "frequency_penalty", "audio", "modalities", "web_search_options",
    }
)  # fmt: skip
"""Features counted by name. The others are one kind: a client may send any name it likes."""


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What matters of one request; tokens are estimates, digests are keyed hashes.

    `system_prompt_digest` is empty when the request has no system prompt. `unsupported` names
    further parameters that change the answer and that only some backends know.
    """

    system_prompt_digest: str = ""
    uses_tools: bool = False
    has_images: bool = False
    n: int = 1
    logprobs: bool = False
    response_format: str | None = None
    prompt_tokens_estimate: int = 0
    max_output_tokens: int = 0
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChampionFacts:
    """What a champion was trained on and what its backend can do.

    `system_prompt_digests` are those seen in the training corpus (empty stands for "none was
    sent"). `features` holds `tools`, `images`, `n`, `logprobs`, `response_format` (any) or
    `response_format:NAME` (one), and names of other parameters.
    """

    version: int
    system_prompt_digests: frozenset[str]
    context_tokens: int
    features: frozenset[str] = frozenset()


def eligible(request: RequestFacts, champion: ChampionFacts) -> str | None:
    """None when the local model may be asked, else the reason why not (never customer text)."""
    found = _obstacle(request, champion)
    return None if found is None else found[1]


def obstacle(request: RequestFacts, champion: ChampionFacts) -> str | None:
    """The kind of the reason `eligible` gives, for counting: one of a few, whatever is asked."""
    found = _obstacle(request, champion)
    return None if found is None else found[0]


def _obstacle(request: RequestFacts, champion: ChampionFacts) -> tuple[str, str] | None:
    """(kind, reason)."""
    lacking = next((name for name in _needs(request) if not _has(champion, name)), None)
    if lacking is not None:
        named = lacking.partition(":")[0]
        kind = named if named in COUNTED_FEATURES else "another parameter"
        return kind, f"the local backend does not support {lacking}"
    if request.system_prompt_digest not in champion.system_prompt_digests:
        return (UNSEEN_PROMPT, UNSEEN_PROMPT)
    wanted = request.prompt_tokens_estimate + request.max_output_tokens
    if wanted > champion.context_tokens:
        return TOO_LONG, f"about {wanted} tokens needed, context holds {champion.context_tokens}"
    return None


def _needs(request: RequestFacts) -> tuple[str, ...]:
    needs: list[str] = []
    if request.uses_tools:
        needs.append("tools")
    if request.has_images:
        needs.append("images")
    if request.n != 1:
        needs.append("n")
    if request.logprobs:
        needs.append("logprobs")
    if request.response_format not in (None, "text"):
        needs.append(f"response_format:{request.response_format}")
    return (*needs, *request.unsupported)


def _has(champion: ChampionFacts, feature: str) -> bool:
    return feature in champion.features or feature.partition(":")[0] in champion.features
