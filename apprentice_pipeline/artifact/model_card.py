"""`MODEL_CARD.md`: the artifact's facts in plain sentences.

Belongs here: the text. Does not: measuring. Promise: rendered from facts alone, the same facts
giving the same bytes; whatever a fact contains, it cannot become markup or another section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apprentice_pipeline.artifact.manifest import BaseIdentity

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|!~])")
_COMPONENTS = {
    "A": "fidelity",
    "V": "coverage",
    "R": "robustness",
    "S": "footprint",
    "L": "latency",
    "C": "cost",
}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What only people can say, and what the corpus counts say.

    `provenance` maps what was counted to how many: pairs captured, verified, in train and so on.
    `teachers` are the models whose answers it learned from.
    """

    description: str = ""
    intended_use: str = ""
    limits: Sequence[str] = ()
    teachers: Sequence[str] = ()
    provenance: Mapping[str, int | float | str] = field(default_factory=dict)


def render_card(
    *,
    tenant: str,
    namespace: str,
    created_at: str,
    base: BaseIdentity,
    facts: CardFacts,
    score: Mapping[str, Any],
) -> bytes:
    """The card as UTF-8 Markdown; `score` is the K-score's `to_dict()`."""
    sections = (
        _front_matter(base),
        [f"# {tenant}.{namespace}", "", _line(facts.description) or "A specialist model."],
        ["## What it replicates", "", _statement(score)],
        _score_table(score),
        ["## Intended use", "", _line(facts.intended_use) or _default_use(namespace)],
        ["## Limits", "", *(f"- {_line(limit)}" for limit in (*facts.limits, *_LIMITS))],
        ["## Base", "", *_base(base)],
        ["## Data", "", *_data(facts)],
        ["## Build", "", f"Built {created_at}. Proof: `receipt.json` and `model.sig`."],
    )
    return ("\n\n".join("\n".join(section) for section in sections) + "\n").encode()


_LIMITS = (
    "It imitates its teacher's answers on this one stream of requests, mistakes included.",
    "It is measured on captured traffic of one period; requests of another kind are not covered.",
    "It gives text answers only: no tools, no images.",
)


def _line(text: str) -> str:
    """One line of plain text: no markup, no line breaks."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _front_matter(base: BaseIdentity) -> list[str]:
    lines = ["---", "library_name: peft", f'base_model: "{base.name}"', "tags: [lora]"]
    if re.fullmatch(r"[A-Za-z0-9.+-]+", base.license):
        lines.append(f'license: "{base.license}"')
    return [*lines, "---"]


def _statement(score: Mapping[str, Any]) -> str:
    if statement := score.get("statement"):
        return _line(str(statement))
    return (
        f"It replicates {_percent(score.get('fidelity'))} of the teacher's behaviour on"
        f" {score.get('n', 'an unknown number of')} held-out requests (95 % CI"
        f" {_percent(score.get('fidelity_low'))} to {_percent(score.get('fidelity_high'))})."
    )


def _score_table(score: Mapping[str, Any]) -> list[str]:
    lines = ["| measure | value |", "|---|---|", f"| K-score | {_decimal(score.get('k'))} |"]
    if score.get("low") is not None:
        interval = f"{_decimal(score.get('low'))} to {_decimal(score.get('high'))}"
        lines.append(f"| K-score, bootstrap interval | {interval} |")
    components = score.get("components") or {}
    for letter, word in _COMPONENTS.items():
        if letter in components:
            lines.append(f"| {letter}: {word} | {_decimal(components[letter], 'dropped')} |")
    if score.get("k_score_v1") is not None:
        lines.append(f"| older composite (v1) | {_decimal(score['k_score_v1'])} |")
    return ["## Measured", "", *lines]


def _default_use(namespace: str) -> str:
    return (
        f"Answering requests of the stream {_line(namespace)} behind a router that asks the"
        " teacher whenever this model is not sure."
    )


def _base(base: BaseIdentity) -> list[str]:
    lines = [f"- name: {_line(base.name)}", f"- digest: `{base.digest}`"]
    lines.append(f"- licence: {_line(base.license) or 'not stated'}")
    if base.attribution:
        lines.append(f"- attribution: {_line(base.attribution)}")
    return lines


def _data(facts: CardFacts) -> list[str]:
    teachers = ", ".join(_line(name) for name in sorted(facts.teachers)) or "not stated"
    counts = [f"- {_line(str(what))}: {_line(str(n))}" for what, n in facts.provenance.items()]
    return [f"- answers by: {teachers}", *sorted(counts)]


def _percent(value: Any) -> str:
    return "an unknown share" if value is None else f"{100 * float(value):.0f} %"


def _decimal(value: Any, absent: str = "not measured") -> str:
    return absent if value is None else f"{float(value):.4f}"
