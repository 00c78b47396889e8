"""Stage 5: the student against the teacher on the frozen holdout; K and the gate's word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from apprentice_pipeline.artifact.kolm import (
    VerifiedArtifact,
    model_size_bytes,
    read_adapter,
    read_tokenizer,
)
from apprentice_pipeline.artifact.receipt import facts_of
from apprentice_pipeline.corpus.rows import Corpus, CorpusRow
from apprentice_pipeline.errors import GateRefused
from apprentice_pipeline.evaluate.gate import check_gate
from apprentice_pipeline.evaluate.holdout import Evaluation, measure
from apprentice_pipeline.evaluate.kscore import EvalRow, ScoreInputs, cost_per_call, k_score
from apprentice_pipeline.evaluate.student import Student
from apprentice_pipeline.records import now_us
from apprentice_pipeline.routing import calibration
from apprentice_pipeline.stages import holdout
from apprentice_pipeline.stages.artifact import champion_artifact
from apprentice_pipeline.stages.judging import evaluator_of
from apprentice_pipeline.stages.results import (
    FrozenCorpus,
    ScoredAdapter,
    TrainedAdapter,
    load,
    save,
)
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.answers import shape_of
from apprentice_pipeline.verify.evaluators import Evaluator, output_valid

Progress = Callable[[str, int, int, str], None]


def evaluate_adapter(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    *,
    progress: Progress = lambda *_: None,
) -> ScoredAdapter:
    """Scores the newest adapter on its corpus's holdout; the record holds the gate's decision,
    nothing raises for it."""
    frozen = load(workspace, tenant, namespace, FrozenCorpus)
    trained = load(workspace, tenant, namespace, TrainedAdapter)
    corpus = holdout.reload(workspace, tenant, namespace, frozen).corpus
    evaluator = evaluator_of(workspace, namespace, [row.completion for row in corpus.train[:200]])
    student = Student.load(Path(trained.base_path), Path(trained.folder))
    measured = answer_holdout(workspace, namespace, corpus, student, evaluator, progress)
    inputs = score_inputs(workspace, corpus, trained, measured.rows)
    score = k_score(measured.rows, inputs)
    champion = champion_artifact(workspace, tenant, namespace)
    decision = check_gate(
        score,
        workspace.config.kscore,
        holdout=sum(row.verified for row in measured.rows),
        newer_than_champion=_newer(corpus.holdout, champion),
        champion_rows=_champion_rows(champion, measured.rows),
        rows=measured.rows,
        leaked=frozen.leaked > 0,
        seed=workspace.config.distill.seed,
    )
    record = ScoredAdapter(
        corpus_root=frozen.root,
        adapter_folder=trained.folder,
        score=score.to_dict(),
        inputs=inputs.to_dict(),
        rows=[row.to_dict() for row in measured.rows],
        chance=measured.chance,
        certificate=certificate(workspace, measured.rows),
        evaluator=evaluator.name,
        passed=decision.passed,
        failures=list(decision.failures),
        remedy=decision.remedy,
        at_us=now_us(),
    )
    save(workspace, tenant, namespace, record)
    return record


def refusal(scored: ScoredAdapter) -> GateRefused:
    """The gate's refusal as the error it is."""
    return GateRefused(list(scored.failures), remedy=scored.remedy)


def answer_holdout(
    workspace: Workspace,
    namespace: str,
    corpus: Corpus,
    student: Student,
    evaluator: Evaluator,
    progress: Progress,
) -> Evaluation:
    """The student's answers to the holdout, scored and timed."""
    task = workspace.config.task(namespace)
    shape = shape_of([row.completion for row in corpus.train])
    tokens = workspace.config.local.max_new_tokens
    return measure(
        corpus.holdout,
        lambda conversations: student.generate(conversations, max_new_tokens=tokens),
        evaluator,
        lambda text: output_valid(task, text, shape),
        seed=workspace.config.distill.seed,
        on_progress=lambda done: progress("evaluate", done, len(corpus.holdout), ""),
    )


def score_inputs(
    workspace: Workspace, corpus: Corpus, trained: TrainedAdapter, answered: Sequence[EvalRow]
) -> ScoreInputs:
    """What K needs besides the rows: sizes, targets and prices, each from where it was measured
    or, for the machine's hour, from the configuration."""
    settings = workspace.config.kscore
    rows = [*corpus.train, *corpus.holdout]
    costs = [row.cost_usd for row in rows if row.cost_usd is not None]
    latencies = [row.latency_us for row in rows if row.latency_us > 0]  # imports have none
    target_ms = settings.target_latency_ms
    return ScoreInputs(
        size_bytes=model_size_bytes(
            read_adapter(Path(trained.folder)),
            read_tokenizer(Path(trained.base_path)),
            trained.base_name,
        ),
        target_size_bytes=trained.target_bytes,
        target_latency_us=None if target_ms is None else int(target_ms * 1_000),
        teacher_latency_us=int(median(latencies)) if latencies else None,
        local_cost_usd=cost_per_call(float(workspace.config.local.cost_usd_per_hour), answered),
        remote_cost_usd=sum(costs) / len(costs) if costs else None,
        bootstrap=settings.bootstrap,
        seed=workspace.config.distill.seed,
    )


def certificate(workspace: Workspace, rows: list[EvalRow]) -> dict[str, Any] | None:
    """The first calibration: the loosest confidence the holdout certifies, None when none does."""
    verified = [row for row in rows if row.verified]
    proven = calibration.certify(
        workspace, [row.confidence for row in verified], [row.score for row in verified], 1
    )
    return None if proven is None else proven.to_plain()


def _newer(rows: tuple[CorpusRow, ...], champion: VerifiedArtifact | None) -> bool | None:
    if champion is None:
        return None
    made = int(facts_of(champion.receipt, "build")["corpus_at_us"])
    return any(row.created_at_us > made for row in rows)


def _champion_rows(champion: VerifiedArtifact | None, rows: list[EvalRow]) -> list[EvalRow] | None:
    """The champion's own scores on rows of this holdout, as its artifact proves them."""
    if champion is None:
        return None
    known = {row["row_hash"]: row["score"] for row in champion.evals["rows"]}
    return [replace(row, score=known[row.row_hash]) for row in rows if row.row_hash in known]
