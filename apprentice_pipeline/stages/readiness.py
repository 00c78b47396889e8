"""How far a stream is from its next training, from counts alone: nothing is opened.

The split is decided by a hash of each input, so the train and holdout counts told here are
expectations (distinct trusted inputs × share); `holdout.freeze` counts exactly.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import TooFewPairs
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import coaching, consent
from apprentice_pipeline.stages.results import ScoredAdapter, TrainedAdapter, load_if_any
from apprentice_pipeline.store.rollup import StreamCounts, stream_counts
from apprentice_pipeline.store.workspace import Workspace

DAY_US = 86_400_000_000
RATE_WINDOW_DAYS = 7
Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Readiness:
    """One stream's counts, what its next training needs, and when that is expected.

    `train` and `holdout` are expected rows of the corpus as it is now, `new_train` those that
    came since the last training. `binding` says in words which condition binds. ETA in days: None
    when nothing arrives, 0 when ready; `eta_low`–`eta_high` from the 95 % interval of the rate.
    `evidence` names what asks for a training: it changes with every score and with every batch of
    inputs, so that a run that failed is not asked for again at once.
    """

    tenant: str
    namespace: str
    pairs: int
    verified: int
    unverified_days: tuple[tuple[str, int], ...]
    train: int
    holdout: int
    new_train: int
    trained_before: bool
    ready_to_distill_at: int
    binding: str
    ready: bool
    enough: bool
    eta_days: float | None
    eta_low: float | None
    eta_high: float | None
    evidence: str

    @property
    def worth_verifying(self) -> bool:
        """Whether verifying what is pending could make the stream ready."""
        pending = sum(count for _, count in self.unverified_days)
        return pending > 0 and self.verified + pending >= self.ready_to_distill_at

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def text(self) -> str:
        """Two lines for a person, in `key=value` words."""
        share = f" ({self.verified / self.pairs:.0%})" if self.pairs else ""
        eta = "unknown" if self.eta_days is None else f"{math.ceil(self.eta_days)}"
        span = ""
        if self.eta_days and self.eta_low is not None:
            high = "∞" if self.eta_high is None else f"{math.ceil(self.eta_high)}"
            span = f" (95 % {math.floor(self.eta_low)}–{high})"
        return (
            f"namespace={self.namespace} pairs={self.pairs} verified={self.verified}{share}\n"
            f"ready_to_distill_at={self.ready_to_distill_at} eta_days={eta}{span}"
            f" — {self.binding}"
        )


def all_streams(workspace: Workspace) -> list[Readiness]:
    """Every stream of every tenant."""
    return [
        stream for tenant in workspace.lake.tenants() for stream in of_tenant(workspace, tenant)
    ]


def of_tenant(workspace: Workspace, tenant: str, namespace: str | None = None) -> list[Readiness]:
    """The tenant's streams, or the one named."""
    names = [namespace] if namespace else workspace.lake.namespaces(tenant)
    return [of_stream(workspace, tenant, name) for name in names]


def of_stream(workspace: Workspace, tenant: str, namespace: str) -> Readiness:
    """One stream, counted now."""
    trained = load_if_any(workspace, tenant, namespace, TrainedAdapter)
    scored = load_if_any(workspace, tenant, namespace, ScoredAdapter)
    counts = StreamCounts()
    if not workspace.lake.is_empty(tenant):
        counts = stream_counts(
            workspace,
            tenant,
            namespace,
            since_us=trained.corpus_at_us if trained else 0,
            recent_us=now_us() - RATE_WINDOW_DAYS * DAY_US,
        )
    stream = _judged(
        workspace.config,
        tenant,
        namespace,
        counts,
        batch=coaching.retraining_batch(workspace, tenant, namespace),
        trained_before=trained is not None and scored is not None,
        scored_at_us=scored.at_us if scored else 0,
    )
    return consent.heeded(workspace.config, stream)


def require_ready(stream: Readiness) -> None:
    """Raises: ConsentWithheld; TooFewPairs, with the counts, when even an asked-for training has
    too little."""
    if stream.binding == consent.WITHHELD:
        raise consent.refusal(stream.namespace)
    if not stream.enough:
        raise TooFewPairs(
            f"{stream.tenant}.{stream.namespace} has {stream.pairs} pairs, {stream.verified} "
            f"verified: about {stream.train} train and {stream.holdout} holdout rows; "
            f"{stream.binding}",
            remedy="capture more traffic, or lower distill.threshold (or the task's "
            "phase1_to_phase2) and kscore.min_holdout",
        )


def _judged(
    config: Config,
    tenant: str,
    namespace: str,
    counts: StreamCounts,
    *,
    batch: int,
    trained_before: bool,
    scored_at_us: int,
) -> Readiness:
    share = config.distill.holdout_fraction
    inputs, days = counts.inputs, counts.unverified_days
    train, holdout = round(inputs * (1 - share)), round(inputs * share)
    new_train = round(counts.new_inputs * (1 - share)) if trained_before else train
    needs = config.first_training_needs(namespace)
    missing = {
        f"train pairs {train} of {needs}": (needs - train) / (1 - share),
        f"holdout pairs {holdout} of {config.kscore.min_holdout}": (
            config.kscore.min_holdout - holdout
        )
        / share,
    }
    enough = all(value <= 0 for value in missing.values())
    if trained_before:
        missing = {f"new train pairs {new_train} of {batch}": (batch - new_train) / (1 - share)}
    words, lacking = max(missing.items(), key=lambda item: item[1])
    ready = enough and lacking <= 0
    pending = sum(count for _, count in days)
    if pending and lacking > 0:
        words += f"; {pending} pairs wait for verification"
    eta, low, high = _eta(max(0.0, lacking - pending), counts)
    return Readiness(
        tenant=tenant,
        namespace=namespace,
        pairs=counts.pairs,
        verified=counts.verified,
        unverified_days=days,
        train=train,
        holdout=holdout,
        new_train=new_train,
        trained_before=trained_before,
        ready_to_distill_at=batch if trained_before else needs,
        binding="ready to distill" if ready else words,
        ready=ready,
        enough=enough,
        eta_days=eta,
        eta_low=low,
        eta_high=high,
        evidence=f"{scored_at_us}:{inputs // batch}",
    )


def _eta(lacking: float, counts: StreamCounts) -> tuple[float | None, float | None, float | None]:
    """Days until `lacking` more inputs, at the recent rate and at the ends of its interval.

    Arrivals are taken as Poisson: the interval of a count n is (√n ± z/2)², variance-stabilised
    (Anscombe 1948).
    """
    if lacking <= 0:
        return 0.0, 0.0, 0.0
    n = counts.recent
    if n == 0:
        return None, None, None
    days = min(RATE_WINDOW_DAYS, max(1.0, (now_us() - counts.first_at_us) / DAY_US))
    fast = (math.sqrt(n) + Z95 / 2) ** 2 / days
    slow = max(0.0, math.sqrt(n) - Z95 / 2) ** 2 / days
    return lacking / (n / days), lacking / fast, lacking / slow if slow > 0 else None


@dataclass(frozen=True, slots=True)
class StandingAlarm:
    """A drift alarm of a stream that nothing has answered yet."""

    tenant: str
    namespace: str
    kind: str
    at_us: int
    confirmed: bool


def drift_alarms(workspace: Workspace) -> list[StandingAlarm]:
    """Streams whose controller coaches or is suspended; confirmed once re-evaluated since."""
    from apprentice_pipeline.routing.champion import control_of  # `status` needs none of it

    found = []
    for champion in workspace.state.champions():
        if not workspace.config.consents(champion.namespace):
            continue
        state = control_of(workspace.state.control(champion.tenant, champion.namespace))
        if not state.coaching and state.phase != "suspended":
            continue
        scored = load_if_any(workspace, champion.tenant, champion.namespace, ScoredAdapter)
        since = state.since_us if state.phase == "suspended" else champion.at_us
        confirmed = scored is not None and scored.at_us > since and not scored.passed
        found.append(
            StandingAlarm(
                tenant=champion.tenant,
                namespace=champion.namespace,
                kind=state.coaching or str(state.phase),
                at_us=since,
                confirmed=confirmed,
            )
        )
    return found
