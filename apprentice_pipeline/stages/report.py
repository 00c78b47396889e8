"""What `status` and `report` say: every stream's phase, agreement, traffic, money and alerts.

Gathered from the lake (who answered, at what cost), the ledger (what was spent), and the
controller's state (phase, intervals). No number is given without its interval where it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.records import now_us, rfc3339
from apprentice_pipeline.stages import readiness, tail
from apprentice_pipeline.stages.readiness import Readiness
from apprentice_pipeline.stages.tail import Tail
from apprentice_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from apprentice_pipeline.control.state import ControlState
    from apprentice_pipeline.store.state import ChampionRecord


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream now. κ is the correlation; `kappa_low`–`kappa_high` its anytime-valid bounds.

    `requests` are exchanges of the customer's traffic since the champion took over, `local` those
    answered locally; money is lifetime, US dollars. `frontier_only_usd` is what the same traffic
    would have cost with every answer remote, at the stream's own mean price. `certificate` is
    what lets it serve: tau, n, coverage, upper_bound, alpha, delta (what the j-th spent) and j.
    """

    namespace: str
    phase: str
    version: int | None
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    comparisons: int
    sampling: float
    tau: float | None
    coverage: float | None
    certificate: dict[str, Any] | None
    requests: int
    local: int
    local_share: float | None
    escalated_share: float | None
    tail: Tail
    total_requests: int
    total_local: int
    spend_usd: float
    passthrough_usd: float
    own_usd: float
    frontier_only_usd: float | None
    saved_usd: float | None
    readiness: Readiness
    next_step: str

    @property
    def agreement_text(self) -> str:
        """κ with its interval, or why there is none."""
        if self.version is None:
            return "— (no champion)"
        if self.kappa is None:
            return f"— ({self.comparisons} comparisons)"
        return (
            f"{self.kappa:.3f} [{self.kappa_low:.3f}, {self.kappa_high:.3f}] n={self.comparisons}"
        )


@dataclass(frozen=True, slots=True)
class Status:
    """A tenant's streams and its alerts, newest first. `lost`: exchanges that could not be kept;
    `at_risk`: answers that went out before their exchange was committed, those of them too."""

    tenant: str
    at: str
    streams: tuple[StreamStatus, ...]
    alerts: tuple[dict[str, Any], ...]
    lost: int
    at_risk: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def text(self) -> str:
        """For a person in a terminal; ends in what to do next."""
        if not self.streams and not self._unkept:
            return (
                "nothing captured yet\n"
                "next: 1. `apprentice serve`  2. `apprentice capture --provider openai --as my-app "
                "--namespace NAME`\n"
                "      or see it work first: `apprentice demo`"
            )
        blocks = [_block(stream) for stream in self.streams]
        blocks += self._unkept
        blocks += [f"alert {a['kind']}: {a['message']} ({a['last_at']})" for a in self.alerts]
        return "\n".join(blocks)

    @property
    def _unkept(self) -> list[str]:
        if not self.lost and not self.at_risk:
            return []
        late = f"{self.at_risk} answers went out before their exchange was committed"
        return [f"not kept: {self.lost} exchanges ({late})"]

    def render(self, form: str) -> str:
        """As `text` or `html`."""
        return _html(self) if form == "html" else self.text()


def status(workspace: Workspace, tenant: str, namespace: str | None = None) -> Status:
    """The tenant's streams, or one of them."""
    names = [namespace] if namespace else _names(workspace, tenant)
    streams = tuple(_stream(workspace, tenant, name) for name in names)
    alerts = tuple(
        {
            "kind": alert.kind,
            "namespace": alert.namespace,
            "message": alert.message,
            "count": alert.count,
            "last_at": rfc3339(alert.last_at_us),
        }
        for alert in workspace.state.alerts(tenant)
        if namespace in (None, alert.namespace)
    )
    counters = workspace.state.counters(tenant, namespace)
    lost, at_risk = int(counters.get("lost", 0)), int(counters.get("at_risk", 0))
    return Status(tenant, rfc3339(now_us()), streams, alerts, lost, at_risk)


report = status


def _names(workspace: Workspace, tenant: str) -> list[str]:
    declared = {task.name for task in workspace.config.tasks}
    return sorted(declared | set(workspace.lake.namespaces(tenant)))


def _stream(workspace: Workspace, tenant: str, namespace: str) -> StreamStatus:
    from apprentice_pipeline.routing.champion import control_of  # a fresh home needs none of it

    document = workspace.state.control(tenant, namespace)
    state = control_of(document)
    champion = workspace.state.champion(tenant, namespace)
    traffic = _traffic(workspace, tenant, namespace, champion)
    spending = workspace.state.lifetime_spending(tenant, namespace)
    passed = float(spending.get("passthrough", (0, 0))[0])
    own = sum(float(usd) for kind, (usd, _) in spending.items() if kind != "passthrough")
    mean_cost = traffic["mean_cost_usd"]
    frontier_only = None
    if mean_cost is not None:
        frontier_only = passed + float(mean_cost) * int(traffic["total_local"])
    found = readiness.of_stream(workspace, tenant, namespace)
    certificate = state.champion.certificate if state.champion else None
    requests, local = int(traffic["requests"]), int(traffic["local"])
    unserved = tail.tail_of(workspace, champion) if champion else Tail()
    return StreamStatus(
        namespace=namespace,
        phase=str(state.phase),
        version=champion.version if champion else None,
        kappa=state.kappa_hat,
        kappa_low=state.kappa_low,
        kappa_high=state.kappa_high,
        comparisons=state.n,
        sampling=state.sampling.pi if state.phase == "serve" else 1.0,
        tau=state.tau,
        coverage=certificate.coverage if certificate else None,
        certificate=certificate.to_plain() if certificate else None,
        requests=requests,
        local=local,
        local_share=local / requests if requests else None,
        escalated_share=_escalated_share(unserved, requests),
        tail=unserved,
        total_requests=int(traffic["total_requests"]),
        total_local=int(traffic["total_local"]),
        spend_usd=passed + own,
        passthrough_usd=passed,
        own_usd=own,
        frontier_only_usd=frontier_only,
        saved_usd=None if frontier_only is None else frontier_only - passed - own,
        readiness=found,
        next_step=_next_step(state, found, namespace),
    )


def _escalated_share(found: Tail, requests: int) -> float | None:
    """Of the requests; an escalated one whose remote call then failed is none of them."""
    return found.escalated / max(requests, found.escalated) if requests else None


def _traffic(
    workspace: Workspace, tenant: str, namespace: str, champion: ChampionRecord | None
) -> dict[str, Any]:
    if workspace.lake.is_empty(tenant):
        return {**dict.fromkeys(_COUNTED, 0), "mean_cost_usd": None}
    since = champion.at_us if champion else 0
    return workspace.lake.sql(tenant, _TRAFFIC, namespace=namespace, since=since)[0]


def _next_step(state: ControlState, found: Readiness, namespace: str) -> str:
    if state.phase == "collect":
        if found.enough or found.enough_once_verified:
            return f"apprentice distill --namespace {namespace}"
        return f"keep capturing: {found.binding}"
    if state.phase == "shadow":
        return "nothing: comparisons decide when it may serve"
    if state.phase == "suspended":
        return f"agreement fell: apprentice distill --namespace {namespace}, or rollback"
    return "nothing: it serves what is certified, and keeps sampling"


def _block(stream: StreamStatus) -> str:
    lines = [
        f"{stream.namespace}: {stream.phase}"
        + (f", version {stream.version}" if stream.version else ""),
        f"  {stream.readiness.text().splitlines()[0]}",
    ]
    if stream.version is None:
        lines.append(f"  {stream.readiness.text().splitlines()[1]}")
    else:
        lines.append(f"  correlation {stream.agreement_text}, sampling {stream.sampling:.0%}")
        lines += [f"  {line}" for line in (_served(stream), _certified(stream))]
        lines += [f"  {line}" for line in tail.lines(stream.tail)]
    lines.append(_money(stream))
    lines.append(f"  next: {stream.next_step}")
    return "\n".join(lines)


def _served(stream: StreamStatus) -> str:
    return (
        f"local share {_share(stream.local_share)}, escalated {_share(stream.escalated_share)} "
        f"of {stream.requests} requests since promotion"
    )


def _certified(stream: StreamStatus) -> str:
    found = stream.certificate
    if found is None:
        return "certificate: none, no confidence qualifies to be served"
    return (
        f"certificate: confidence ≥ {found['tau']:g} (n={found['n']}, "
        f"{found['coverage']:.0%} of the calibration rows), disagreement ≤ "
        f"{found['upper_bound']:.4f} of at most {found['alpha']:g}, "
        f"delta_{found['j']}={found['delta']:.4g}"
    )


def _share(share: float | None) -> str:
    return "—" if share is None else f"{share:.0%}"


def _money(stream: StreamStatus) -> str:
    text = f"  spend ${stream.spend_usd:.4f} (of it ours ${stream.own_usd:.4f})"
    if stream.frontier_only_usd is None:
        return text + ", all-frontier unknown: no price for these models"
    return text + (
        f", all-frontier ${stream.frontier_only_usd:.4f}, saved ${stream.saved_usd or 0:.4f}"
    )


def _html(found: Status) -> str:
    headings = (
        "stream", "phase", "version", "correlation κ", "local share", "escalated", "certificate",
        "not served", "spend", "saved",
    )  # fmt: skip
    rows = [_cells(stream) for stream in found.streams]
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in r) + "</tr>" for r in rows)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        "<!doctype html><meta charset=utf-8><title>Apprentice report</title>"
        "<style>body{font:15px system-ui;margin:2rem;max-width:70rem}td,th{padding:.4rem .8rem;"
        "text-align:left;border-bottom:1px solid #ddd}</style>"
        f"<h1>{escape(found.tenant)}</h1><table><tr>{head}</tr>{body}</table><p>{made}</p>"
    )


def _cells(stream: StreamStatus) -> Sequence[str]:
    return (
        stream.namespace,
        stream.phase,
        str(stream.version or "—"),
        stream.agreement_text,
        _share(stream.local_share),
        _share(stream.escalated_share),
        _certified(stream).removeprefix("certificate: ") if stream.version else "—",
        "; ".join(tail.lines(stream.tail)) if stream.version else "—",
        f"${stream.spend_usd:.4f}",
        "—" if stream.saved_usd is None else f"${stream.saved_usd:.4f}",
    )


_COUNTED = ("requests", "local", "total_requests", "total_local")
_TRAFFIC = """
select count(*) filter (where created_at_us > $since)::bigint as requests,
       count(*) filter (where created_at_us > $since and served_by = 'local')::bigint as local,
       count(*)::bigint as total_requests,
       count(*) filter (where served_by = 'local')::bigint as total_local,
       avg(cost_usd) filter (where is_pair and origin <> 'import')::double as mean_cost_usd
from captures
where namespace = $namespace and status between 200 and 299
"""
