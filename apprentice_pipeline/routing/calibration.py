"""Certifying anew what may be served, once the sampled comparisons have doubled.

Gathers the calibration rows (the champion's own holdout, and every sampled comparison of it
since), lets `control.risk` certify them with what this calibration may spend of δ, and takes the
outcome into force.
"""

from __future__ import annotations

from apprentice_pipeline.control import phases, risk
from apprentice_pipeline.control.risk import Certificate
from apprentice_pipeline.control.state import ControlState
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.champion import control_of
from apprentice_pipeline.serving.champions import Wanted, trusted_by, verified_champion
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

STARTS = 3
"""Starting points of the certification walk; why three is in docs/LOG.md."""


def recalibrate_due(workspace: Workspace) -> list[tuple[str, str]]:
    """Recalibrates every stream whose controller says it is due; returns them."""
    done = []
    for champion in workspace.state.champions():
        state = control_of(workspace.state.control(champion.tenant, champion.namespace))
        if state.recalibration_due and state.champion is not None:
            _recalibrate(workspace, champion, state)
            done.append((champion.tenant, champion.namespace))
    return done


def certify(
    workspace: Workspace, confidences: list[float], scores: list[float], j: int
) -> Certificate | None:
    """The j-th calibration's certificate on these rows, None when nothing may be served."""
    serving = workspace.config.serving
    return risk.certify(
        confidences,
        scores,
        alpha=serving.max_disagreement,
        delta=risk.spend(serving.risk_delta, j),
        j=j,
        starts=STARTS,
    )


def _recalibrate(workspace: Workspace, champion: ChampionRecord, state: ControlState) -> None:
    rows = _calibration_rows(workspace, champion)
    j = state.calibrations + 1
    certificate = certify(workspace, [c for c, _ in rows], [s for _, s in rows], j)

    def change(document: str | None) -> str:
        current = control_of(document)
        if current.calibrations + 1 != j or current.champion is None:
            return current.to_json()
        return phases.recertify(current, certificate, len(rows), now_us())[0].to_json()

    workspace.state.update_control(champion.tenant, champion.namespace, change)


def _calibration_rows(workspace: Workspace, champion: ChampionRecord) -> list[tuple[float, float]]:
    """(confidence, score) of the champion's verified holdout and of its sampled comparisons.

    Those since it took over: an older artifact may have had its version number.
    """
    artifact = verified_champion(Wanted.of(champion), trusted_by(workspace))
    held = [(r["confidence"], r["score"]) for r in artifact.evals["rows"] if r["verified"]]
    sampled = workspace.lake.sql(
        champion.tenant,
        "select confidence, score from comparisons "
        "where namespace = $namespace and version = $version and sampled "
        "and created_at_us >= $since",
        namespace=champion.namespace,
        version=champion.version,
        since=champion.at_us,
    )
    return held + [(row["confidence"], row["score"]) for row in sampled]
