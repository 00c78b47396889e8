"""The names under which the router counts what a champion did not answer.

Belongs here: the names, and reading them back. Does not: counting (`router`), the report.
A champion's counts are its own: a new version begins at nothing.
"""

from __future__ import annotations

from collections.abc import Mapping


def escalated(version: int) -> str:
    """The counter of answers that were not good enough to give, by this version."""
    return f"v{version} escalated"


def ineligible(version: int, kind: str) -> str:
    """The counter of requests that this version was not asked at all, by kind of reason."""
    return f"{_ineligible(version)}{kind}"


def ineligible_by_kind(counters: Mapping[str, float], version: int) -> dict[str, int]:
    """How many requests each kind of reason kept from this version, most frequent first."""
    start = _ineligible(version)
    found = {
        name.removeprefix(start): int(value)
        for name, value in counters.items()
        if name.startswith(start)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _ineligible(version: int) -> str:
    return f"v{version} ineligible: "
