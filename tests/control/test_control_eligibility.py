"""Which requests the local model may answer at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apprentice_pipeline.control.eligibility import ChampionFacts, RequestFacts, eligible, obstacle

CHAMPION = ChampionFacts(3, frozenset({"abc"}), context_tokens=512)
PLAIN = RequestFacts(system_prompt_digest="abc", prompt_tokens_estimate=100)


def test_a_plain_request_with_a_known_system_prompt_is_eligible() -> None:
    assert eligible(PLAIN, CHAMPION) is None
    assert eligible(replace(PLAIN, response_format="text"), CHAMPION) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system_prompt_digest": "new"}, "system prompt not seen"),
        ({"system_prompt_digest": ""}, "system prompt not seen"),
        ({"uses_tools": True}, "does not support tools"),
        ({"has_images": True}, "does not support images"),
        ({"n": 2}, "does not support n"),
        ({"logprobs": True}, "does not support logprobs"),
        ({"response_format": "json_schema"}, "response_format:json_schema"),
        ({"unsupported": ("audio",)}, "does not support audio"),
        ({"prompt_tokens_estimate": 513}, "context holds 512"),
        ({"max_output_tokens": 413}, "about 513 tokens needed"),
    ],
)
def test_what_the_champion_lacks_is_the_reason(change: dict[str, Any], reason: str) -> None:
    found = eligible(replace(PLAIN, **change), CHAMPION)
    assert found is not None
    assert reason in found


def test_a_backend_that_has_the_feature_is_asked() -> None:
    able = replace(CHAMPION, features=frozenset({"tools", "response_format:json_object"}))
    assert eligible(replace(PLAIN, uses_tools=True), able) is None
    assert eligible(replace(PLAIN, response_format="json_object"), able) is None
    assert eligible(replace(PLAIN, response_format="json_schema"), able) is not None
    any_format = replace(CHAMPION, features=frozenset({"response_format"}))
    assert eligible(replace(PLAIN, response_format="json_schema"), any_format) is None


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"system_prompt_digest": "new"}, "system prompt not seen in training"),
        ({"uses_tools": True}, "tools"),
        ({"response_format": "json_schema"}, "response_format"),
        ({"max_output_tokens": 413}, "more tokens than the context holds"),
        ({"unsupported": ("a name that only this client sends",)}, "another parameter"),
    ],
)
def test_reasons_are_counted_under_a_few_kinds_whatever_a_client_sends(
    change: dict[str, Any], kind: str | None
) -> None:
    request = replace(PLAIN, **change)
    assert obstacle(request, CHAMPION) == kind
    assert (eligible(request, CHAMPION) is None) == (kind is None)
