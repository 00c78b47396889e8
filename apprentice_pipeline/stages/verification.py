"""Stage 2: verdicts on the pairs of one day that have none yet.

Gathers the pending pairs, lets `verify` judge them, appends its verdicts. Run twice, it judges
nothing twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from apprentice_pipeline.records import Answer, Pair, Verdict, now_us
from apprentice_pipeline.stages.asking import open_asking
from apprentice_pipeline.stages.judging import evaluator_of
from apprentice_pipeline.stages.results import append_records
from apprentice_pipeline.store.pairs import pairs
from apprentice_pipeline.store.workspace import Workspace
from apprentice_pipeline.verify.answers import AnswerShape, shape_of
from apprentice_pipeline.verify.evaluators import Evaluator
from apprentice_pipeline.verify.verification import VerificationSummary, summarize, verify

BATCH = 1_000

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True)
class Verified:
    """What one day's verification found; see `VerificationSummary`."""

    summary: VerificationSummary
    reasons: dict[str, int]

    @property
    def label_noise_text(self) -> str:
        """The estimated label noise with its interval, in words."""
        found = self.summary
        if found.label_noise is None:
            return "not estimated: nothing was resampled"
        return (
            f"{found.label_noise:.1%} (95 % CI {found.label_noise_low:.1%}–"
            f"{found.label_noise_high:.1%}, {found.resampled} pairs resampled)"
        )


def verify_pending(
    workspace: Workspace,
    tenant: str,
    namespace: str,
    day: str,
    *,
    progress: Progress = lambda *_: None,
) -> Verified:
    """A verdict for every pair of the day that has none; resampling within the budget."""
    ids = [
        row["pair_id"] for row in workspace.lake.sql(tenant, _PENDING, namespace=namespace, day=day)
    ]
    verdicts: list[Verdict] = []
    if ids:
        verdicts = asyncio.run(_verify(workspace, tenant, namespace, ids, progress))
    reasons = Counter(verdict.reason for verdict in verdicts)
    return Verified(summarize(verdicts), dict(reasons))


async def _verify(
    workspace: Workspace, tenant: str, namespace: str, ids: Sequence[str], progress: Progress
) -> list[Verdict]:
    task = workspace.config.task(namespace)
    evaluator, shape = judges(workspace, tenant, namespace, ids)
    draw_key = workspace.vault.fingerprint(tenant, "resample", namespace.encode())
    done: list[Verdict] = []
    batch: list[Verdict] = []
    async with open_asking(workspace, tenant, namespace, kind="resample") as asking:

        async def ask(pair: Pair) -> Answer:
            return await asking.ask(pair.input, provider=pair.provider, model=pair.model)

        async for verdict in verify(
            _opened(workspace, tenant, namespace, ids),
            task=task,
            evaluator=evaluator,
            ask=ask,
            settings=workspace.config.verify,
            draw_key=draw_key,
            now_us=now_us(),
            verifier=f"self-consistency/{evaluator.name}",
            shape=shape,
            on_progress=lambda count: progress("verify", count, len(ids), ""),
        ):
            batch.append(verdict)
            if len(batch) >= BATCH:
                append_records(workspace, tenant, batch)
                done += batch
                batch = []
    append_records(workspace, tenant, batch)
    return done + batch


def judges(
    workspace: Workspace, tenant: str, namespace: str, ids: Sequence[str]
) -> tuple[Evaluator, AnswerShape]:
    """The evaluator and the answers' shape of a stream, from the first of these pairs."""
    sample = [pair.output for pair in _opened(workspace, tenant, namespace, ids[:200])]
    return evaluator_of(workspace, namespace, sample), shape_of(sample)


def _opened(
    workspace: Workspace, tenant: str, namespace: str, ids: Sequence[str]
) -> Iterator[Pair]:
    yield from pairs(workspace, tenant, namespace, ids=list(ids))


_PENDING = """
select c.pair_id from captures c
where c.namespace = $namespace and c.date = $day and c.is_pair
  and not exists (select 1 from verdicts v where v.pair_id = c.pair_id)
order by c.created_at_us, c.pair_id
"""
