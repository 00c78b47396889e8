"""Turns grammar into text as people type it: alternatives, slots, sentences, slips of the finger.

Pure: randomness comes in as a `Draw`. Promises: the same draw gives the same text on every
Python version, and an urgent or calm phrase is never misspelt, so the label stays readable.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from apprentice_pipeline.demo.sample_grammar import manners
from apprentice_pipeline.demo.sample_grammar.kind import Kind

_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_QUESTION = re.compile(
    r"(where|when|what|which|who|why|how|is|are|can|could|do|does|did|has|have|would|will|any)\b"
)
_KEYS = {"a": "s", "e": "r", "i": "o", "o": "p", "t": "r", "n": "m", "s": "d", "r": "t", "l": "k"}


class Draw:
    """Seeded choices, built on `random()` alone, the one method that never changed its draws."""

    def __init__(self, seed: str) -> None:
        self._source = random.Random(seed)

    def chance(self, share: float) -> bool:
        """True in `share` of the calls."""
        return self._source.random() < share

    def below(self, limit: int) -> int:
        """An integer from 0 to `limit` - 1."""
        return int(self._source.random() * limit)

    def one(self, items: Sequence[str]) -> str:
        """One of `items`."""
        return items[self.below(len(items))]

    def shuffled(self, count: int) -> list[int]:
        """The integers below `count` in a drawn order."""
        keys = [self._source.random() for _ in range(count)]
        return sorted(range(count), key=keys.__getitem__)


def say(kind: Kind, core: str, urgency: str, draw: Draw) -> str:
    """One request of `kind` around `core`; `urgency` is "urgent", "calm" or "" (none)."""
    spoken = _sentence(core, draw)
    if draw.chance(0.03):
        spoken = spoken.upper()
    if _QUESTION.match(core) and draw.chance(0.6):
        spoken += "?"
    parts = [_slip(spoken, draw)]
    if draw.chance(0.5):
        parts.append(_slip(_sentence(draw.one(kind.detail_lines()), draw), draw))
    if draw.chance(0.05):
        parts.insert(0, _sentence(_any(manners.ASIDES, draw), draw))
    if urgency:
        phrase = _sentence(_any(_phrases(urgency), draw), draw)
        parts.insert(0 if draw.chance(0.25) else len(parts), phrase)
    if draw.chance(0.35):
        parts.insert(0, _sentence(_any(manners.GREETINGS, draw), draw))
    if draw.chance(0.3):
        parts.append(_sentence(_any(manners.CLOSINGS, draw), draw))
    text = _join(parts, draw)
    return f"{text} {draw.one(manners.EMOJI)}" if draw.chance(0.04) else text


def _phrases(urgency: str) -> str:
    return manners.URGENT if urgency == "urgent" else manners.CALM


def _any(lines: str, draw: Draw) -> str:
    return draw.one(lines.strip().splitlines())


def _sentence(phrasing: str, draw: Draw) -> str:
    """A phrasing with its alternatives chosen and its slots filled, no filling used twice."""
    chosen = _ALTERNATIVES.sub(lambda found: draw.one(found[1].split("|")), phrasing)
    used: set[str] = set()

    def fill(found: re.Match[str]) -> str:
        word = _filling(found[1], draw)
        while word in used:
            word = _filling(found[1], draw)
        used.add(word)
        return word

    return " ".join(_SLOT.sub(fill, chosen).split())


def _filling(slot: str, draw: Draw) -> str:
    if slot == "n":
        return str(2 + draw.below(18))
    if slot == "amount":
        whole = 4 + draw.below(900)
        form = draw.one(("${}", "€{}", "£{}", "{} EUR", "{} USD", "{} zł", "${}.99", "€{},50"))
        return form.format(whole)
    if slot == "order":
        number = 10_000 + draw.below(89_000)
        form = draw.one(("order #{}", "order {}", "my order {}", "order no. {}", "ORD-{}", "#{}"))
        return form.format(number)
    return draw.one(manners.SLOTS[slot])


def _join(parts: list[str], draw: Draw) -> str:
    """Sentences, a run-on, or everything in small letters, as the writer's habit is."""
    habit = draw.below(100)
    if habit < 50:
        sentences = [part[0].upper() + part[1:] for part in parts]
        return " ".join(_stop(sentence, draw.one((".", ".", ".", "!"))) for sentence in sentences)
    if habit < 70:
        return ", ".join(part.rstrip("?") for part in parts).lower()
    if habit < 85:
        return " ".join([*(_stop(part, ".") for part in parts[:-1]), parts[-1]])
    glue = draw.one((" ", " - ", "... ", ", "))
    return glue.join(part.rstrip("?") if glue[0] in ".," else part for part in parts)


def _stop(sentence: str, mark: str) -> str:
    return sentence if sentence.endswith(("?", "!", ".")) else sentence + mark


def _slip(text: str, draw: Draw) -> str:
    """In a sixteenth of the cases one longer word gets a typing error."""
    if not draw.chance(1 / 16):
        return text
    words = text.split(" ")
    long = [
        i for i, word in enumerate(words) if len(word) > 4 and word.isascii() and word.isalpha()
    ]
    if not long:
        return text
    place = long[draw.below(len(long))]
    words[place] = _misspell(words[place], draw)
    return " ".join(words)


def _misspell(word: str, draw: Draw) -> str:
    at = 1 + draw.below(len(word) - 2)
    kind = draw.below(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + _KEYS.get(word[at].lower(), "e") + word[at + 1 :]
