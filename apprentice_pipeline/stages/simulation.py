"""`apprentice simulate`: a scenario file through the real controller, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from apprentice_pipeline.control.scenario import read_scenario
from apprentice_pipeline.control.simulate import Day, simulate
from apprentice_pipeline.errors import UsageError

_EXAMPLE = "see the example in docs/CONFIGURATION.md"


def simulate_file(file: Path) -> list[Day]:
    """One row a simulated day. Raises: UsageError naming every fault of the file."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"{file.name} is not YAML", remedy=_EXAMPLE) from None
    if not isinstance(document, dict):
        raise UsageError(f"{file.name} holds no mapping", remedy=_EXAMPLE)
    return list(simulate(read_scenario(document)))


def text(days: Sequence[Day]) -> str:
    """The days as an aligned table."""
    head = (
        f"{'day':>4} {'phase':<10} {'κ':>6} {'κ low':>6} {'local':>6} {'π':>5} {'$':>9} "
        f"{'$ all remote':>13}"
    )
    lines = [head]
    for day in days:
        lines.append(
            f"{day.day:>4} {day.phase:<10} {_number(day.kappa_hat)} {_number(day.kappa_low)} "
            f"{day.share_local:>6.0%} {day.pi:>5.2f} {day.spend_usd:>9.2f} "
            f"{day.frontier_only_usd:>13.2f} {'; '.join(day.events)}".rstrip()
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "     —" if value is None else f"{value:>6.3f}"
