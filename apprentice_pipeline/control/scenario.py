"""Scenarios of `simulate`, from plain values.

Belongs here: the fields of a scenario, their ranges, and every fault of one named together. Does
not: running it (`simulate`), files (`stages.simulation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from pydantic import ValidationError

from apprentice_pipeline import config
from apprentice_pipeline.control.sampling import Steps
from apprentice_pipeline.control.state import Policy
from apprentice_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive equal days; `promote` installs a new champion at their start."""

    days: int = 1
    agreement: float = 0.95
    promote: bool = False
    requests_per_day: int = 200
    ineligible_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traffic, costs per call in US dollars, and the policy under test."""

    stretches: tuple[Stretch, ...]
    policy: Policy
    remote_cost_usd: float = 0.01
    local_cost_usd: float = 0.0001
    holdout: int = 300
    chance: float = 0.1
    seed: str = "1"


@dataclass(frozen=True, slots=True)
class _Range:
    """Numbers from `low` to `high`, the ends themselves left out where `open_low`, `open_high`."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number lies within."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    @property
    def words(self) -> str:
        """The range in words, for a message."""
        low = f"above {self.low:g}" if self.open_low else f"from {self.low:g}"
        return f"{low} {'to below' if self.open_high else 'to'} {self.high:g}"


_SHARE: Final = _Range(0, 1)
_INNER: Final = _Range(0, 1, open_low=True, open_high=True)
_RANGES: Final[Mapping[str, _Range]] = {
    "days": _Range(1, 10_000),
    "agreement": _SHARE,
    "requests_per_day": _Range(0, 10_000_000),
    "ineligible_share": _SHARE,
    "remote_cost_usd": _Range(0, 1_000),
    "local_cost_usd": _Range(0, 1_000),
    "holdout": _Range(0, 10_000_000),
    "chance": _SHARE,
    "phase2_to_phase3": _SHARE,
    "coaching_trigger": _Range(0, 1, open_high=True),
    "emergency_threshold": _SHARE,
    "window_size": _Range(1, 1_000_000),
    "min_floor": _SHARE,
    "trend_sensitivity": _SHARE,
    "max_disagreement": _INNER,
    "risk_delta": _INNER,
    "arl": _Range(1, 1e12, open_low=True),
    "confidence_delta": _INNER,
}
"""What each number may be: as in `apprentice.yaml`, and sizes that a simulation gets through."""


def read_scenario(plain: Mapping[str, Any]) -> Scenario:
    """A scenario from parsed YAML: the fields of `Scenario`, `stretches` a list, `policy` a map.

    Raises:
        UsageError: unknown keys, values of the wrong type or out of range, or no stretch; all
            are named.
    """
    faults: list[str] = []
    policy = _build(Policy, plain.get("policy") or {}, "policy", faults)
    listed = plain.get("stretches")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        faults.append("stretches: at least one is needed")
        listed = ()
    stretches = [_build(Stretch, each, f"stretches[{i}]", faults) for i, each in enumerate(listed)]
    rest = {name: value for name, value in plain.items() if name not in ("policy", "stretches")}
    whole: Scenario | None = _build(
        Scenario, rest, "scenario", faults, policy=policy or Policy(), stretches=tuple(stretches)
    )
    if policy is not None and not _rises(policy):
        faults.append(
            "policy: thresholds must rise: emergency_threshold ≤ coaching_trigger ≤ "
            "phase2_to_phase3"
        )
    if faults or whole is None:
        raise UsageError(
            "the scenario has faults: " + "; ".join(faults),
            remedy="correct the keys named; docs/CONFIGURATION.md has an example",
        )
    return whole


def _build(record: type[Any], plain: Any, where: str, faults: list[str], **given: Any) -> Any:
    """An instance of a flat record from a mapping; faults are appended, None when there are."""
    if not isinstance(plain, Mapping):
        faults.append(f"{where}: must be a mapping")
        return None
    kinds = {each.name: str(each.type) for each in fields(record) if each.name not in given}
    known: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in kinds:
            faults.append(f"{where}.{name}: unknown key (known: {', '.join(sorted(kinds))})")
        elif not _fits(value, kinds[name]):
            wanted = _KINDS.get(kinds[name], kinds[name])
            faults.append(f"{where}.{name}: {value!r} is not a {wanted}")
        elif name in _RANGES and not _RANGES[name].holds(value):
            faults.append(f"{where}.{name}: {value!r} is not {_RANGES[name].words}")
        else:
            known[name] = _READ.get(kinds[name], _as_it_is)(value)
    return record(**known, **given)


def _as_it_is(value: Any) -> Any:
    return value


def _steps(value: Any) -> Steps:
    return tuple((float(step["at"]), float(step["pi"])) for step in value)


_KINDS: Final = {"Steps": "list of {at, pi}, rising in at and never in pi"}
_READ: Final[Mapping[str, Callable[[Any], Any]]] = {"float": float, "Steps": _steps}


def _rises(policy: Policy) -> bool:
    return policy.emergency_threshold <= policy.coaching_trigger <= policy.phase2_to_phase3


def _fits(value: Any, kind: str) -> bool:
    if kind in ("int", "float"):
        numeric = isinstance(value, int) or (kind == "float" and isinstance(value, float))
        return numeric and not isinstance(value, bool)
    if kind == "Steps":
        try:
            return bool(config.Sampling(decay_function="step", step_table=value).step_table)
        except ValidationError:
            return False
    if kind == "Decay":
        return value in ("exponential", "linear", "step")
    return isinstance(value, bool if kind == "bool" else str)
