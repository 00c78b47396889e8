"""Self-consistency: draws, verdicts, failing and hanging calls, bounded work."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.config import Verify
from apprentice_pipeline.errors import BudgetExhausted, ConfigError, RemoteError
from apprentice_pipeline.records import CUT, REFUSED, Answer, Pair, Verdict
from apprentice_pipeline.verify.evaluators import ExactMatch, Plugged
from apprentice_pipeline.verify.verification import is_drawn, summarize, verify, wilson

MakePair = Callable[..., Pair]
KEY = b"k" * 32
ALL = Verify(fraction=1.0, k=3, floor=1.0, concurrency=4)


async def run(pairs: Any, ask: Any, settings: Verify = ALL, **more: Any) -> list[Verdict]:
    verdicts = verify(
        pairs,
        task=None,
        evaluator=more.pop("evaluator", ExactMatch()),
        ask=ask,
        settings=settings,
        draw_key=KEY,
        now_us=5,
        verifier="test",
        **more,
    )
    return [verdict async for verdict in verdicts]


async def echo(pair: Pair) -> Any:
    return pair.output


async def test_a_teacher_that_repeats_itself_is_verified(make_pair: MakePair) -> None:
    [verdict] = await run([make_pair("yes")], echo)
    assert (verdict.verdict, verdict.confidence, verdict.resamples) == ("verified", 1.0, 3)


async def test_one_deviating_resample_quarantines_at_a_floor_of_1(make_pair: MakePair) -> None:
    answers = iter(["yes", "no", "yes"])

    async def ask(pair: Pair) -> Any:
        return next(answers)

    [verdict] = await run([make_pair("yes")], ask)
    assert verdict.verdict == "quarantined"
    assert verdict.confidence == pytest.approx(2 / 3)


async def test_an_answer_record_counts_by_its_output(make_pair: MakePair) -> None:
    async def ask(pair: Pair) -> Answer:
        return Answer(output="yes", model="m", served_by="remote", latency_us=1)

    [verdict] = await run([make_pair("yes")], ask)
    assert verdict.verdict == "verified"


def answered(output: Any, ending: str) -> Answer:
    return Answer(output, model="m", served_by="remote", latency_us=1, ending=ending)


async def test_a_cut_resample_is_a_failed_one_and_no_disagreement(make_pair: MakePair) -> None:
    answers = iter([answered("ye", CUT), "yes", "yes"])

    async def ask(pair: Pair) -> Any:
        return next(answers)

    verdicts = await run([make_pair("yes")], ask)
    assert (verdicts[0].verdict, verdicts[0].confidence, verdicts[0].resamples) == (
        "verified",
        1.0,
        2,
    )
    assert summarize(verdicts).failed_resamples == 1


async def test_when_every_resample_is_cut_structure_alone_verifies(make_pair: MakePair) -> None:
    """Even one that begins as the captured answer does: what it would have become is not known."""

    async def ask(pair: Pair) -> Any:
        return answered(pair.output, CUT)

    verdicts = await run([make_pair("yes")], ask)
    assert (verdicts[0].verdict, verdicts[0].confidence) == ("verified", None)
    assert summarize(verdicts).failed_resamples == 3


async def test_a_refusal_is_another_answer(make_pair: MakePair) -> None:
    async def ask(pair: Pair) -> Any:
        return answered("I will not help with that.", REFUSED)

    [verdict] = await run([make_pair("yes")], ask)
    assert (verdict.verdict, verdict.confidence, verdict.resamples) == ("quarantined", 0.0, 3)


async def test_a_fault_quarantines_without_asking(make_pair: MakePair) -> None:
    async def ask(pair: Pair) -> Any:
        raise AssertionError("asked")

    [verdict] = await run([make_pair("")], ask)
    assert (verdict.verdict, verdict.reason, verdict.confidence) == (
        "quarantined",
        "empty answer",
        None,
    )


@pytest.mark.parametrize("error", [RemoteError("down"), BudgetExhausted("spent")])
async def test_when_every_call_fails_structure_alone_verifies(
    make_pair: MakePair, error: Exception
) -> None:
    async def ask(pair: Pair) -> Any:
        raise error

    verdicts = await run([make_pair("yes")], ask)
    assert (verdicts[0].verdict, verdicts[0].confidence, verdicts[0].resamples) == (
        "verified",
        None,
        0,
    )
    assert summarize(verdicts).failed_resamples == 3


async def test_a_call_that_hangs_is_given_up(make_pair: MakePair) -> None:
    async def ask(pair: Pair) -> Any:
        await asyncio.Event().wait()

    verdicts = await run([make_pair("yes")], ask, ask_timeout_s=0.01)
    assert verdicts[0].confidence is None
    assert summarize(verdicts).failed_resamples == 3


async def test_the_calls_that_succeed_decide(make_pair: MakePair) -> None:
    asked = iter([RemoteError("down"), None, None])

    async def ask(pair: Pair) -> Any:
        if (error := next(asked)) is not None:
            raise error
        return pair.output

    verdicts = await run([make_pair("yes")], ask)
    assert (verdicts[0].verdict, verdicts[0].confidence, verdicts[0].resamples) == (
        "verified",
        1.0,
        2,
    )
    assert summarize(verdicts).failed_resamples == 1


async def test_no_more_calls_are_open_than_the_settings_allow(make_pair: MakePair) -> None:
    open_now = most = 0

    async def ask(pair: Pair) -> Any:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.001)
        open_now -= 1
        return pair.output

    await run([make_pair("yes", n) for n in range(30)], ask)
    assert most == ALL.concurrency


async def test_verdicts_do_not_depend_on_who_answers_first(make_pair: MakePair) -> None:
    pairs = [make_pair("yes", number) for number in range(40)]

    async def verdicts(seed: int) -> list[Verdict]:
        delays = random.Random(seed)

        async def ask(pair: Pair) -> Any:
            await asyncio.sleep(delays.random() * 0.002)
            return "yes" if int(pair.pair_id[-1]) % 3 else "no"

        return await run(pairs, ask, Verify(fraction=0.5, k=2, concurrency=8))

    assert await verdicts(1) == await verdicts(2)


async def test_verdicts_come_in_the_order_of_the_pairs(make_pair: MakePair) -> None:
    pairs = [make_pair("yes", number) for number in range(25)]
    assert [v.pair_id for v in await run(pairs, echo)] == [p.pair_id for p in pairs]


async def test_a_long_stream_is_read_as_verdicts_are_taken(make_pair: MakePair) -> None:
    read = 0

    def stream() -> Iterator[Pair]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield make_pair("yes", number)

    taken = 0
    verdicts = verify(
        stream(),
        task=None,
        evaluator=ExactMatch(),
        ask=echo,
        settings=Verify(fraction=0.01, concurrency=4),
        draw_key=KEY,
        now_us=0,
        verifier="test",
    )
    async for _ in verdicts:
        taken += 1
        assert read - taken <= 4 * 4
        if taken == 500:
            break
    await verdicts.aclose()  # type: ignore[attr-defined]
    assert read < 600


async def test_leaving_early_cancels_what_is_open(make_pair: MakePair) -> None:
    cancelled = 0

    async def ask(pair: Pair) -> Any:
        nonlocal cancelled
        if pair.pair_id == "pair-00000":
            return pair.output
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    verdicts = verify(
        [make_pair("yes", number) for number in range(20)],
        task=None,
        evaluator=ExactMatch(),
        ask=ask,
        settings=ALL,
        draw_key=KEY,
        now_us=0,
        verifier="test",
    )
    await anext(verdicts)
    await asyncio.sleep(0.01)
    await verdicts.aclose()  # type: ignore[attr-defined]
    assert cancelled == ALL.concurrency
    assert len(asyncio.all_tasks()) == 1


async def test_a_broken_evaluator_is_an_error_of_its_own(make_pair: MakePair) -> None:
    with pytest.raises(ConfigError, match="must lie in"):
        await run([make_pair("yes")], echo, evaluator=Plugged("bad", lambda a, b: 2.0))
    assert len(asyncio.all_tasks()) == 1


async def test_progress_counts_every_pair(make_pair: MakePair) -> None:
    seen: list[int] = []
    await run([make_pair("yes", n) for n in range(10)], echo, on_progress=seen.append)
    assert seen == list(range(1, 11))


def test_the_draw_picks_about_the_fraction_and_nests() -> None:
    ids = [f"pair-{number}" for number in range(5_000)]
    fifth = {each for each in ids if is_drawn(each, KEY, 0.2)}
    half = {each for each in ids if is_drawn(each, KEY, 0.5)}
    assert 0.17 * 5_000 < len(fifth) < 0.23 * 5_000
    assert fifth < half
    assert not any(is_drawn(each, KEY, 0.0) for each in ids)
    assert all(is_drawn(each, KEY, 1.0) for each in ids)


async def test_the_summary_estimates_label_noise(make_pair: MakePair) -> None:
    """With independent errors at 10 %, two draws agree 81 % of the time."""
    draws = random.Random(3)

    def answer() -> str:
        return "yes" if draws.random() > 0.1 else f"no {draws.random()}"

    async def ask(pair: Pair) -> Any:
        return answer()

    pairs = [make_pair(answer(), number) for number in range(2_000)]
    summary = summarize(await run(pairs, ask, Verify(fraction=1.0, k=1)))
    assert summary.resampled == 2_000
    assert summary.label_noise_low < 0.1 < summary.label_noise_high
    assert summary.label_noise == pytest.approx(0.1, abs=0.02)
    assert summary.verified + summary.quarantined == summary.pairs == 2_000


def test_an_empty_summary_claims_nothing() -> None:
    summary = summarize([])
    assert (summary.pairs, summary.label_noise) == (0, None)


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_wilson_holds_its_mean_and_stays_in_bounds(mean: float, n: int) -> None:
    low, high = wilson(mean, n)
    assert 0.0 <= low <= mean <= high <= 1.0


def test_wilson_agrees_with_the_textbook() -> None:
    low, high = wilson(0.93, 240)
    assert (low, high) == pytest.approx((0.8906, 0.9560), abs=2e-3)
