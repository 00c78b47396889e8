"""Replacing what must not be kept: e-mail addresses, card numbers, whatever a pattern says.

Belongs here: patterns applied to every text of an input or output, in place of which a mark is
kept. Does not: when (before anything is sealed), bytes on their way (they pass as they are).
Not covered: names and addresses, which no pattern knows; images and files; text cut in two by a
pattern-unaware client. A pattern sees one text at a time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from apprentice_pipeline.config import Capture
from apprentice_pipeline.records import Exchange

KNOWN: Final[dict[str, str]] = {
    "email": r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    "phone": r"(?<![\w.])\+?\d[\d ().-]{7,18}\d(?![\w])",
    "card": r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "ip": r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])",
    "secret": r"\b(?:sk|pk|rk|ghp|gho|xox[abp]|AKIA|AIza)[-_A-Za-z0-9]{16,200}\b",
}
"""What is known by name, strictest first where two overlap."""
_ORDER: Final = ("secret", "email", "iban", "card", "ip", "phone")


def redactor(wanted: Capture) -> Redactor:
    """What `capture.redaction` asks for."""
    named = tuple(rule for rule in wanted.redaction if isinstance(rule, str))
    given = [(r.pattern, r.replacement) for r in wanted.redaction if not isinstance(r, str)]
    return _redactor(named, tuple(given))


@functools.lru_cache(maxsize=8)
def _redactor(names: tuple[str, ...], patterns: tuple[tuple[str, str], ...]) -> Redactor:
    return Redactor(names, patterns)


class Redactor:
    """Replaces what its rules match. Safe across threads."""

    def __init__(self, names: Sequence[str], patterns: Sequence[tuple[str, str]] = ()) -> None:
        """`names` of `KNOWN`; `patterns` are expressions with what stands in their place.

        Raises: KeyError for an unknown name; re.error for a pattern that is none.
        """
        known = sorted(names, key=_ORDER.index)
        rules = [*patterns, *((KNOWN[name], f"[{name.upper()}]") for name in known)]
        self._rules: list[Callable[[str], str]] = [
            _rule(re.compile(pattern), mark) for pattern, mark in rules
        ]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def redacted(self, exchange: Exchange) -> Exchange:
        """The exchange as it may be kept."""
        if not self._rules:
            return exchange
        given, answered = self.value(exchange.input), self.value(exchange.output)
        return exchange._replace(input=given, output=answered)

    def value(self, value: Any) -> Any:
        """`value` with every text in it redacted; keys stay as they are."""
        if isinstance(value, str):
            for rule in self._rules:
                value = rule(value)
            return value
        if isinstance(value, dict):
            return {key: self.value(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(part) for part in value]
        return value


def _rule(pattern: re.Pattern[str], mark: str) -> Callable[[str], str]:
    return lambda text: pattern.sub(lambda _: mark, text)
