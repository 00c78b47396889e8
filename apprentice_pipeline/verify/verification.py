"""k-sample self-consistency: would the teacher give the same answer again?

Belongs here: which pairs are asked again, the verdict on each, the label noise that the
resamples estimate. Does not: calls, budgets (`ask` does both), storage of verdicts.

Promises: verdicts come in the order of the pairs and depend on what was answered only, not on
who answered first; at most `settings.concurrency` calls are open at a time; memory holds a
window of pairs, not the stream. Wang et al. (2023) is where self-consistency comes from.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from apprentice_pipeline import config
from apprentice_pipeline.errors import BudgetExhausted, PriceUnknown, RemoteError, WireError
from apprentice_pipeline.records import CUT, Answer, Pair, Verdict
from apprentice_pipeline.verify.answers import AnswerShape
from apprentice_pipeline.verify.evaluators import Evaluator, agree
from apprentice_pipeline.verify.structural import fault

Ask = Callable[[Pair], Awaitable[Any]]

NOT_ASKED: Final = (RemoteError, BudgetExhausted, PriceUnknown, WireError, TimeoutError)
"""What `ask` may raise without spoiling the verification: the resample is counted as failed."""

SOUND: Final = "structure sound"
CONSISTENT: Final = "resamples agree"
INCONSISTENT: Final = "resamples disagree"
_FAILED: Final = re.compile(r"(\d+) of \d+ resamples failed$")
_Z95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class VerificationSummary:
    """What a verification found.

    `disagreement` is the share of resamples that differ from the captured answer, over the pairs
    that were resampled. `label_noise` is the chance that one answer is not the teacher's usual
    one, if errors seldom coincide: two draws agree with (1 − e)², so e = 1 − √(1 − disagreement).
    Both describe the stream before quarantine; what verification leaves in is less. Intervals:
    Wilson, 95 %, one observation a pair; None where nothing was resampled.
    """

    pairs: int
    verified: int
    quarantined: int
    resampled: int
    failed_resamples: int
    disagreement: float | None
    label_noise: float | None
    label_noise_low: float | None
    label_noise_high: float | None
    faults: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "faults": dict(self.faults)}


async def verify(
    pairs: Iterable[Pair],
    *,
    task: config.Task | None,
    evaluator: Evaluator,
    ask: Ask,
    settings: config.Verify,
    draw_key: bytes,
    now_us: int,
    verifier: str,
    shape: AnswerShape | None = None,
    ask_timeout_s: float = 300.0,
    on_progress: Callable[[int], None] | None = None,
) -> AsyncIterator[Verdict]:
    """A verdict for each pair, in order; `pairs` is read as verdicts are taken.

    A pair with a structural fault is quarantined unasked. Of the others a keyed draw of the pair
    id picks `settings.fraction`, each asked again `settings.k` times with its own input as it
    was, temperature included (`ask` sees to that and returns the output, or an `Answer`). The
    share of resamples that agree is the confidence; below `settings.floor` is quarantine. A call
    that fails, exceeds `ask_timeout_s` or is answered by an `Answer` that was cut is left out and
    counted in the reason; when all fail the pair is verified by structure alone, confidence None.
    A refusal is an answer, and another one. `on_progress` gets the count so far.
    """
    calls = asyncio.Semaphore(settings.concurrency)
    window: deque[asyncio.Task[Verdict]] = deque()
    done = 0

    async def judge(pair: Pair) -> Verdict:
        found = fault(pair, task, shape)
        if found is not None:
            return _verdict(pair, now_us, verifier, "quarantined", None, 0, found)
        if not is_drawn(pair.pair_id, draw_key, settings.fraction):
            return _verdict(pair, now_us, verifier, "verified", None, 0, SOUND)
        scores = await _resample(pair, evaluator, ask, settings.k, calls, ask_timeout_s)
        return _judged(pair, scores, settings, now_us, verifier)

    try:
        for pair in pairs:
            window.append(asyncio.ensure_future(judge(pair)))
            if len(window) < 4 * settings.concurrency:
                continue
            done += 1
            yield await _first(window, done, on_progress)
        while window:
            done += 1
            yield await _first(window, done, on_progress)
    finally:
        await _abandon(window)


def is_drawn(pair_id: str, draw_key: bytes, fraction: float) -> bool:
    """Whether the keyed draw picks this pair: the same answer whenever and wherever asked."""
    digest = hmac.digest(draw_key, b"resample" + pair_id.encode(), "sha256")
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def summarize(verdicts: Iterable[Verdict]) -> VerificationSummary:
    """The counts, and the label noise with its interval."""
    totals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    agreed = 0.0
    for verdict in verdicts:
        totals[verdict.verdict] += 1
        failed = _FAILED.search(verdict.reason)
        totals["failed"] += int(failed.group(1)) if failed else 0
        if verdict.confidence is not None and verdict.resamples > 0:
            totals["resampled"] += 1
            agreed += verdict.confidence
        elif verdict.verdict == "quarantined":
            faults[verdict.reason] += 1
    n = totals["resampled"]
    low, high = wilson(agreed / n, n) if n else (0.0, 0.0)
    return VerificationSummary(
        pairs=sum(totals[each] for each in ("verified", "quarantined", "approved", "rejected")),
        verified=totals["verified"] + totals["approved"],
        quarantined=totals["quarantined"] + totals["rejected"],
        resampled=n,
        failed_resamples=totals["failed"],
        disagreement=1.0 - agreed / n if n else None,
        label_noise=_noise(agreed / n) if n else None,
        label_noise_low=_noise(high) if n else None,
        label_noise_high=_noise(low) if n else None,
        faults=dict(faults),
    )


def wilson(mean: float, n: float, z: float = _Z95) -> tuple[float, float]:
    """Wilson's (1927) score interval of a proportion.

    Also safe, if wide, for the mean of scores in [0, 1], whose variance is never larger. `n` may
    be an effective sample size.
    """
    if n <= 0:
        return 0.0, 1.0
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    spread = mean * (1 - mean) / n + z * z / (4 * n * n)
    reach = z * math.sqrt(max(0.0, spread)) / (1 + z * z / n)
    return max(0.0, min(mean, centre - reach)), min(1.0, max(mean, centre + reach))


async def _resample(
    pair: Pair,
    evaluator: Evaluator,
    ask: Ask,
    k: int,
    calls: asyncio.Semaphore,
    timeout_s: float,
) -> list[float | None]:
    """k scores of the captured answer against fresh ones; None where the call failed.

    What a limit or a filter cut says nothing of the answer it would have become.
    """

    async def once() -> float | None:
        async with calls:
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await ask(pair)
            except NOT_ASKED:
                return None
        if not isinstance(answer, Answer):
            return evaluator.score(pair.output, answer)
        return None if answer.ending == CUT else evaluator.score(pair.output, answer.output)

    asked = [asyncio.ensure_future(once()) for _ in range(k)]
    try:
        scores = await asyncio.gather(*asked)
    finally:
        await _abandon(asked)
    return [None if score is None else float(agree(evaluator, score)) for score in scores]


def _judged(
    pair: Pair, scores: list[float | None], settings: config.Verify, now_us: int, verifier: str
) -> Verdict:
    votes = [score for score in scores if score is not None]
    failed = len(scores) - len(votes)
    note = f"; {failed} of {len(scores)} resamples failed" if failed else ""
    if not votes:
        return _verdict(pair, now_us, verifier, "verified", None, 0, SOUND + note)
    share = sum(votes) / len(votes)
    passed = share >= settings.floor
    reason = (CONSISTENT if passed else INCONSISTENT) + note
    decided = "verified" if passed else "quarantined"
    return _verdict(pair, now_us, verifier, decided, share, len(votes), reason)


def _verdict(
    pair: Pair,
    now_us: int,
    verifier: str,
    verdict: str,
    confidence: float | None,
    resamples: int,
    reason: str,
) -> Verdict:
    return Verdict(
        pair_id=pair.pair_id,
        namespace=pair.namespace,
        decided_at_us=now_us,
        verifier=verifier,
        verdict=verdict,
        confidence=confidence,
        resamples=resamples,
        reason=reason,
    )


async def _first(
    window: deque[asyncio.Task[Verdict]], done: int, on_progress: Callable[[int], None] | None
) -> Verdict:
    verdict = await window[0]
    window.popleft()
    if on_progress is not None:
        on_progress(done)
    return verdict


async def _abandon(window: Collection[asyncio.Task[Any]]) -> None:
    """Cancels what is still open when the reader stops early or a call breaks."""
    for task in window:
        task.cancel()
    await asyncio.gather(*window, return_exceptions=True)


def _noise(agreement: float) -> float:
    return 1.0 - math.sqrt(max(0.0, agreement))
