"""After an alarm: the champion's own artifact on the holdout rows that came since.

Belongs here: gathering the rows, asking the champion, taking the outcome into force. Does not: the
decision (`control.reevaluation`), a challenger's score (`score`).

Not confirmed: SUSPENDED goes to SHADOW, coaching ends. Confirmed: everything stays as it is, and
the record asks for a retraining (`readiness.drift_alarms`). The newest corpus, adapter and score
are not touched: they belong to the next model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from apprentice_pipeline.artifact.kolm import unpack
from apprentice_pipeline.control import phases
from apprentice_pipeline.control.events import Event
from apprentice_pipeline.control.reevaluation import LEAST_ROWS, Outcome, judge_alarm
from apprentice_pipeline.corpus.rows import CorpusRow
from apprentice_pipeline.errors import TooFewPairs, UsageError
from apprentice_pipeline.evaluate.holdout import measure
from apprentice_pipeline.evaluate.student import Student
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing.champion import (
    ServingFacts,
    champion_evaluator,
    control_of,
    in_force,
    policy_of,
)
from apprentice_pipeline.routing.recording import described
from apprentice_pipeline.serving.champions import Wanted, base_of, trusted_by, verified_champion
from apprentice_pipeline.serving.embedding import embedder
from apprentice_pipeline.stages.holdout import holdout_since
from apprentice_pipeline.stages.results import Reevaluated, save, work_folder
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.evaluators import output_valid

MOST_ROWS = 500
"""The newest of the fresh rows that are asked; more would tell no more."""

Progress = Callable[[str, int, int, str], None]


def reevaluate(
    workspace: Workspace, tenant: str, namespace: str, *, progress: Progress = lambda *_: None
) -> Reevaluated:
    """Judges the standing alarm and takes the outcome into force, once an alarm.

    Raises: UsageError when no alarm stands; TooFewPairs while too little has come since;
    ArtifactError, ServingError when the champion's artifact is not to be had.
    """
    champion = workspace.state.champion(tenant, namespace)
    control = control_of(workspace.state.control(tenant, namespace))
    alarm_at_us = control.alarm_at_us
    if champion is None or alarm_at_us is None or not in_force(control, champion):
        raise UsageError(
            f"no alarm stands for {tenant}.{namespace}", remedy="see `apprentice status`"
        )
    fresh = holdout_since(workspace, tenant, namespace, alarm_at_us)[-MOST_ROWS:]
    outcome = None
    if len(fresh) >= LEAST_ROWS:
        scored = _scored(workspace, champion, fresh, progress)
        outcome = judge_alarm(control, scored, policy_of(workspace.config, namespace))
    if outcome is None:
        raise TooFewPairs(
            f"{len(fresh)} holdout pairs of {tenant}.{namespace} came since the alarm; "
            f"{LEAST_ROWS} at or above the threshold in force are needed to judge it",
            remedy="wait for more traffic; it is judged again then",
        )
    record = Reevaluated(
        alarm_at_us=alarm_at_us,
        digest=champion.digest,
        rows=outcome.rows,
        kappa=outcome.kappa,
        needed=outcome.needed,
        confirmed=outcome.confirmed,
        at_us=now_us(),
    )
    save(workspace, tenant, namespace, record)
    _take_into_force(workspace, champion, alarm_at_us, outcome)
    return record


def _scored(
    workspace: Workspace, champion: ChampionRecord, rows: list[CorpusRow], progress: Progress
) -> list[tuple[float, float]]:
    """(confidence, score) of the champion on each row; an invalid answer has confidence 0."""
    facts, task = ServingFacts.from_plain(champion.facts), workspace.config.task(champion.namespace)
    evaluator = champion_evaluator(facts, task, champion.namespace, embedder())
    student = _student(workspace, champion)
    tokens = workspace.config.local.max_new_tokens
    measured = measure(
        rows,
        lambda conversations: student.generate(conversations, max_new_tokens=tokens),
        evaluator,
        lambda text: output_valid(task, text, facts.shape),
        latency_sample=0,
        on_progress=lambda done: progress("re-evaluate", done, len(rows), ""),
    )
    return [(row.confidence if row.valid else 0.0, row.score) for row in measured.rows]


def _student(workspace: Workspace, champion: ChampionRecord) -> Student:
    """The champion's adapter, from its verified artifact, on its own base."""
    verified = verified_champion(Wanted.of(champion), trusted_by(workspace))
    base = base_of(verified.manifest, workspace.config.local.base_model)
    scratch = work_folder(workspace, champion.tenant, champion.namespace)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".champion-") as folder:
        unpack(verified, Path(folder) / "artifact")
        return Student.load(base, Path(folder) / "artifact" / "adapter")


def _take_into_force(
    workspace: Workspace, champion: ChampionRecord, alarm_at_us: int, outcome: Outcome
) -> None:
    """Unless the alarm has ended, or given way to another one, meanwhile."""
    tenant, namespace, at_us = champion.tenant, champion.namespace, now_us()
    happened: tuple[Event, ...] = ()

    def change(text: str | None) -> str:
        nonlocal happened
        control = control_of(text)
        happened = ()
        if in_force(control, champion) and control.alarm_at_us == alarm_at_us:
            control, happened = phases.reevaluate(control, outcome.confirmed, at_us)
        return control.to_json()

    workspace.state.update_control(tenant, namespace, change)
    alerts = [described(event) for event in happened]
    alerts.append(("re-evaluation", _words(outcome)))
    for kind, message in alerts:
        if kind:
            workspace.state.add_alert(tenant, namespace, kind, message, now_us=at_us)


def _words(outcome: Outcome) -> str:
    said = "the alarm is confirmed" if outcome.confirmed else "the alarm is not confirmed"
    return (
        f"{said}: the champion's correlation is {outcome.kappa:.3f} on {outcome.rows} fresh "
        f"holdout pairs, {outcome.needed:.3f} needed"
    )
