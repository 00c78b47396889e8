"""How far a stream is from its next training: from counts, and near the threshold exactly.

Belongs here: what a training needs, and what a stream has of it. Does not: counting itself
(`store.rollup`), selection and split (`holdout`).

The split is decided by a keyed hash of each folded input, so counts alone give expectations
(distinct trusted inputs × share). Where these cannot tell whether a first training has enough
(within `BAND` standard errors of the threshold, and above it up to `FEW` inputs, of which some may
turn out to be no text), the inputs are opened and counted as `holdout.freeze` will: what is called
ready is not refused for a count. Of `FEW` that takes a quarter of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import TooFewPairs
from apprentice_pipeline.records import now_us
from apprentice_pipeline.stages import coaching, consent
from apprentice_pipeline.stages.results import (
    Reevaluated,
    ScoredAdapter,
    TrainedAdapter,
    load_if_any,
)
from apprentice_pipeline.store.rollup import Counted, StreamCounts, stream_counts
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.store.state import ChampionRecord

DAY_US = 86_400_000_000
RATE_WINDOW_DAYS = 7
Z95 = 1.96
BAND = 5.0
FEW = 5_000


@dataclass(frozen=True, slots=True)
class Readiness:
    """One stream's counts, what its next training needs, and when that is expected.

    `train` and `holdout` are the rows of the corpus as it is now, counted where `exact`, else
    expected; `new_train` those that came since the last training. `enough`: for a training that
    is asked for; `ready`: for one that nobody asked for; the same `…_once_verified`, were every
    pending pair's verdict a good one. `binding` says in words which condition binds.

    ETA in days: None when nothing arrives, 0 when ready; `eta_low`–`eta_high` from the 95 %
    interval of the rate. `evidence` names what asks for a training: it changes with every score
    and with every batch of inputs, so that a run that failed is not asked for again at once.
    `next_step`: the command, "" while there is nothing to do but wait.
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
    exact: bool
    enough_once_verified: bool
    ready_once_verified: bool
    next_step: str

    @property
    def worth_verifying(self) -> bool:
        """Whether verifying what is pending could make the stream ready."""
        return bool(self.unverified_days) and not self.ready and self.ready_once_verified

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
            f" — {self.binding}" + (f"; next: {self.next_step}" if self.next_step else "")
        )


def all_streams(workspace: Workspace) -> list[Readiness]:
    """Every stream of every tenant."""
    return [
        stream for tenant in workspace.lake.tenants() for stream in of_tenant(workspace, tenant)
    ]


def of_tenant(
    workspace: Workspace,
    tenant: str,
    namespace: str | None = None,
    on_counted: Callable[[str, int, int], None] = lambda _namespace, _done, _total: None,
) -> list[Readiness]:
    """The tenant's streams, or the one named; `on_counted`: as `rollup.stream_counts`, with the
    stream's name before."""
    names = [namespace] if namespace else workspace.lake.namespaces(tenant)
    return [of_stream(workspace, tenant, name, partial(on_counted, name)) for name in names]


def of_stream(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    on_counted: Counted = lambda _done, _total: None,
) -> Readiness:
    """One stream, counted now; `on_counted`: as `rollup.stream_counts`."""
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
            on_counted=on_counted,
        )
    trained_before = trained is not None and scored is not None
    stream = _judged(
        workspace.config,
        tenant,
        namespace,
        counts,
        _corpora(workspace, tenant, namespace, counts, trained_before=trained_before),
        batch=coaching.retraining_batch(workspace, tenant, namespace),
        trained_before=trained_before,
        scored_at_us=scored.at_us if scored else 0,
    )
    return consent.heeded(workspace.config, stream)


def require_ready(stream: Readiness, *, once_verified: bool = False) -> None:
    """Raises: ConsentWithheld; TooFewPairs, with the counts, when even an asked-for training has
    too little.

    `once_verified`: even if every pending pair were verified first.
    """
    if stream.binding == consent.WITHHELD:
        raise consent.refusal(stream.namespace)
    if stream.enough or (once_verified and stream.enough_once_verified):
        return
    raise TooFewPairs(
        f"{stream.tenant}.{stream.namespace} has {stream.pairs} pairs, {stream.verified} "
        f"verified: {'' if stream.exact else 'about '}{stream.train} train and {stream.holdout} "
        f"holdout rows; {stream.binding}",
        remedy="capture more traffic, or lower distill.threshold (or the task's "
        "phase1_to_phase2) and kscore.min_holdout",
    )


@dataclass(frozen=True, slots=True)
class _Corpus:
    """Rows on both sides of the corpus as it is, or would be: counted or expected."""

    train: int
    holdout: int
    exact: bool

    def enough(self, needs: tuple[int, int]) -> bool:
        """Whether both sides have what a training needs."""
        return self.train >= needs[0] and self.holdout >= needs[1]


def _corpora(
    workspace: Workspace, tenant: str, namespace: str, counts: StreamCounts, *, trained_before: bool
) -> tuple[_Corpus, _Corpus]:
    """The corpus as verified now, and as it would be once everything pending were verified.

    A stream that was trained before had enough then, and has more now: it is not counted again.
    """
    share, needs = workspace.config.distill.holdout_fraction, _needs(workspace.config, namespace)

    def corpus(inputs: int, *, once_verified: bool) -> _Corpus:
        if not trained_before and _unsure(inputs, share, needs):
            from apprentice_pipeline.stages.holdout import count_sides  # `status` seldom needs it

            sides = count_sides(workspace, tenant, namespace, once_verified=once_verified)
            if sides is not None:
                return _Corpus(*sides, exact=True)
        return _Corpus(round(inputs * (1 - share)), round(inputs * share), exact=False)

    now = corpus(counts.inputs, once_verified=False)
    if not counts.unverified_days:
        return now, now
    return now, corpus(counts.hopeful_inputs, once_verified=True)


def _needs(config: Config, namespace: str) -> tuple[int, int]:
    """Train and holdout rows of a first training."""
    return config.first_training_needs(namespace), config.kscore.min_holdout


def _unsure(inputs: int, share: float, needs: tuple[int, int]) -> bool:
    """Whether expectations cannot tell if that many inputs are enough on both sides."""
    if inputs == 0:
        return False
    band = BAND * math.sqrt(inputs * share * (1 - share)) + 1
    spare = min(inputs * (1 - share) - needs[0], inputs * share - needs[1])
    return spare >= -band and (spare <= band or inputs <= FEW)


def _judged(
    config: Config,
    tenant: str,
    namespace: str,
    counts: StreamCounts,
    corpora: tuple[_Corpus, _Corpus],
    *,
    batch: int,
    trained_before: bool,
    scored_at_us: int,
) -> Readiness:
    now, later = corpora
    share, needs = config.distill.holdout_fraction, _needs(config, namespace)
    new_train = round(counts.new_inputs * (1 - share)) if trained_before else now.train
    new_later = round(counts.hopeful_new_inputs * (1 - share)) if trained_before else batch
    missing = {
        f"train pairs {now.train} of {needs[0]}": (needs[0] - now.train) / (1 - share),
        f"holdout pairs {now.holdout} of {needs[1]}": (needs[1] - now.holdout) / share,
    }
    if trained_before:
        missing = {f"new train pairs {new_train} of {batch}": (batch - new_train) / (1 - share)}
    words, lacking = max(missing.items(), key=lambda item: item[1])
    ready = now.enough(needs) and lacking <= 0
    ready_later = later.enough(needs) and new_later >= batch
    pending = sum(count for _, count in counts.unverified_days)
    if pending and lacking > 0:
        words += f"; {pending} pairs wait for verification"
    eta, low, high = _eta(max(0.0, lacking - pending), counts)
    worthwhile = ready or (pending > 0 and ready_later)
    return Readiness(
        tenant=tenant,
        namespace=namespace,
        pairs=counts.pairs,
        verified=counts.verified,
        unverified_days=counts.unverified_days,
        train=now.train,
        holdout=now.holdout,
        new_train=new_train,
        trained_before=trained_before,
        ready_to_distill_at=batch if trained_before else needs[0],
        binding="ready to distill" if ready else words,
        ready=ready,
        enough=now.enough(needs),
        eta_days=eta,
        eta_low=low,
        eta_high=high,
        evidence=f"{scored_at_us}:{counts.inputs // batch}",
        exact=now.exact,
        enough_once_verified=later.enough(needs),
        ready_once_verified=ready_later,
        next_step=f"apprentice distill --namespace {namespace}" if worthwhile else "",
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
    """An alarm of a stream's controller that nothing has ended yet.

    `fresh`: holdout rows expected since, to judge it by. `confirmed`: the champion in service was
    judged for this very alarm, and it was right. `evidence` names the batch of inputs at hand.
    """

    tenant: str
    namespace: str
    kind: str
    at_us: int
    fresh: int
    confirmed: bool
    evidence: str


def drift_alarms(workspace: Workspace) -> list[StandingAlarm]:
    """Streams whose controller coaches or is suspended, each since its own alarm sounded."""
    return [
        alarm
        for champion in workspace.state.champions()
        if (alarm := _alarm(workspace, champion)) is not None
    ]


def _alarm(workspace: Workspace, champion: ChampionRecord) -> StandingAlarm | None:
    from apprentice_pipeline.routing.champion import control_of, in_force  # `status` needs neither

    tenant, namespace = champion.tenant, champion.namespace
    control = control_of(workspace.state.control(tenant, namespace))
    at_us = control.alarm_at_us
    if not workspace.config.consents(namespace):
        return None
    if at_us is None or not in_force(control, champion):
        return None
    judged = load_if_any(workspace, tenant, namespace, Reevaluated)
    counts = stream_counts(workspace, tenant, namespace, since_us=at_us, recent_us=0)
    share = workspace.config.distill.holdout_fraction
    return StandingAlarm(
        tenant=tenant,
        namespace=namespace,
        kind=control.coaching or str(control.phase),
        at_us=at_us,
        fresh=round(counts.hopeful_new_inputs * share),
        confirmed=judged is not None
        and (judged.alarm_at_us, judged.digest) == (at_us, champion.digest)
        and judged.confirmed,
        evidence=str(counts.inputs // workspace.config.local.fine_tune_batch_size),
    )
