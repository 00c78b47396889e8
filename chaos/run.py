"""One run: a stand-in frontier, a gateway, customers, kills, the proof.

Belongs here: the order of it, and what it reports. Does not: the table (`__main__`).
A kill falls at a random instant after answers have flowed again since the last one, so that
every kill is one under load. `commit_timeout_ms` is by default beyond every stall: what is
released at that limit is at risk, and not covered by the promise that is proved here. With a
shorter one, answers that took longer than it and have no pair are counted apart, and may not be
more than the gateway counted as released at risk.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chaos.load import Customers
from chaos.proof import Verdict, gather, judge
from chaos.victim import KINDS, Victim

TENANT = "default"
_WEIGHTS = (6, 2, 5, 1, 2)
"""How often each of `KINDS` dies."""
_BETWEEN = 6
"""Answers between two kills, at least."""
_LONGEST_S = 0.25
TIMEOUT_MS = 60_000
"""Longer than any stall here: a promise for every answer."""
_FLOW_S = 120.0
_CONFIGURATION = """\
remote: {{endpoints: {{openai: "{url}", anthropic: "{url}", gemini: "{url}"}}}}
gateway: {{commit_timeout_ms: {timeout_ms}}}
store: {{drain_interval_s: 0.2}}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run did and found. `cut`: calls whose answers broke off, as kills make them.
    `at_risk`: releases before a commit, as the gateway counted them. `ways`: answers delivered by
    endpoint and manner."""

    seed: int
    timeout_ms: int
    kills: dict[str, int]
    seconds: float
    streamed: int
    cut: int
    refused: int
    exit_status: int
    at_risk: int
    ways: dict[str, int]
    verdict: Verdict

    @property
    def good(self) -> bool:
        """No violation, and a graceful stop at the end."""
        return self.verdict.violations == 0 and self.exit_status == 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "violations": self.verdict.violations, "good": self.good}


def run(
    folder: Path,
    *,
    kills: int,
    seed: int,
    workers: int = 2,
    connections: int = 8,
    timeout_ms: int = TIMEOUT_MS,
    on_kill: Callable[[str], None] = lambda _kind: None,
) -> Outcome:
    """Kills `kills` times in a home under `folder` and proves. Raises: RuntimeError when the
    gateway does not come up or answers cease to flow."""
    from apprentice_pipeline.demo.frontier import FrontierSettings, start_frontier

    began, dice = time.monotonic(), random.Random(seed)
    answers = FrontierSettings(
        latency_ms=2, jitter_ms=6, chunk_chars=4, chunk_delay_ms=0.5, compress=True
    )
    with ExitStack() as stack:
        frontier = stack.enter_context(start_frontier(answers, {}))
        environment = _environment(folder, frontier.url, timeout_ms)
        victim = Victim(environment, workers)
        stack.callback(victim.destroy)
        victim.start()
        customers = Customers(lambda: victim.port, connections)
        with customers.asking():
            done = _attack(victim, customers, kills, dice, on_kill)
            _flow(customers)
        status = victim.stop()
    verdict, at_risk = _prove(environment, customers, timeout_ms)
    return Outcome(
        seed=seed,
        timeout_ms=timeout_ms,
        kills=dict(done),
        seconds=round(time.monotonic() - began, 1),
        streamed=sum(each.streamed for each in customers.delivered),
        cut=customers.cut,
        refused=customers.refused,
        exit_status=status,
        at_risk=at_risk,
        ways=dict(Counter(f"{each.form}, {each.manner}" for each in customers.delivered)),
        verdict=verdict,
    )


def _attack(
    victim: Victim,
    customers: Customers,
    kills: int,
    dice: random.Random,
    on_kill: Callable[[str], None],
) -> Counter[str]:
    done: Counter[str] = Counter()
    for kind in dice.choices(KINDS, _WEIGHTS, k=kills):
        _flow(customers)
        time.sleep(dice.uniform(0, _LONGEST_S))
        while not (killed := victim.kill(kind, dice)):
            victim.wait_until_whole()
        done[killed] += 1
        on_kill(killed)
    return done


def _flow(customers: Customers) -> None:
    if not customers.wait_for(_BETWEEN, _FLOW_S):
        raise RuntimeError(f"no answer has come for {_FLOW_S:.0f} s")


def _environment(folder: Path, url: str, timeout_ms: int) -> dict[str, str]:
    file = folder / "apprentice.yaml"
    file.write_text(_CONFIGURATION.format(url=url, timeout_ms=timeout_ms), encoding="utf-8")
    root = str(Path(__file__).parents[1])
    return {
        **os.environ,
        "APPRENTICE_HOME": str(folder / "home"),
        "APPRENTICE_CONFIG": str(file),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }


def _prove(
    environment: dict[str, str], customers: Customers, timeout_ms: int
) -> tuple[Verdict, int]:
    from apprentice_pipeline.settings import load_settings
    from apprentice_pipeline.store.workspace import Workspace

    with closing(Workspace.open(load_settings(environment))) as workspace:
        at_risk = int(workspace.state.counters(TENANT, "default").get("at_risk", 0))
        remains = gather(workspace, TENANT)
    return judge(customers.delivered, remains, timeout_ms / 1_000, at_risk), at_risk
