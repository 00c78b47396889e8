"""The queue in front of the embedded model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import Overloaded
from apprentice_pipeline.serving.pace import LOOK_AGAIN, Pace
from apprentice_pipeline.serving.waiting import Waiting, WaitingRoom


def waiting(
    name: str = "a", *, tokens: int = 8, expires_s: float = 100.0, background: bool = False
) -> Waiting:
    return Waiting(("t", name, 1), [], tokens, 0.0, expires_s, background, lambda reply: None)


def test_a_batch_holds_one_adapter_and_one_token_limit_oldest_first() -> None:
    room = WaitingRoom(capacity=10)
    requests = [waiting("a"), waiting("b"), waiting("a", tokens=9), waiting("a")]
    for request in requests:
        room.admit(request)
    assert room.next_batch(0.0, 8) == ([requests[0], requests[3]], [])
    assert room.next_batch(0.0, 8) == ([requests[1]], [])
    assert room.next_batch(0.0, 8) == ([requests[2]], [])
    assert room.next_batch(0.0, 8) == ([], [])


def test_what_somebody_waits_for_goes_before_background_work() -> None:
    room = WaitingRoom(capacity=10)
    shadow, wanted = waiting("a", background=True), waiting("b")
    room.admit(shadow)
    room.admit(wanted)
    assert room.next_batch(0.0, 2)[0] == [wanted]
    assert room.next_batch(0.0, 2)[0] == [shadow]


def test_a_batch_with_room_left_takes_background_work_along() -> None:
    room = WaitingRoom(capacity=10)
    shadow, wanted = waiting(background=True), waiting()
    room.admit(shadow)
    room.admit(wanted)
    assert room.next_batch(0.0, 3)[0] == [wanted, shadow]


def test_a_full_room_refuses_and_background_work_fills_half_of_it_at_most() -> None:
    room = WaitingRoom(capacity=4)
    for _ in range(2):
        room.admit(waiting(background=True))
    with pytest.raises(Overloaded):
        room.admit(waiting(background=True))
    for _ in range(2):
        room.admit(waiting())
    with pytest.raises(Overloaded):
        room.admit(waiting())


def test_the_faster_of_alone_and_together_is_chosen_and_the_other_tried_again() -> None:
    alone, together = Pace(8), Pace(8)
    for pace, batch_s in ((alone, 0.8), (together, 0.1)):
        pace.note(1, 0.05)
        pace.note(8, batch_s)
    sizes = [alone.batch_size() for _ in range(LOOK_AGAIN)]
    assert sizes == [1] * (LOOK_AGAIN - 1) + [8]
    assert together.batch_size() == 8
    assert Pace(8).batch_size() == 8, "what is not known yet is tried"


@given(
    arrivals=st.lists(
        st.tuples(st.sampled_from("ab"), st.booleans(), st.floats(0, 10)), max_size=30
    ),
    max_batch=st.integers(1, 5),
    capacity=st.integers(1, 20),
    now_s=st.floats(0, 10),
)
def test_every_admitted_request_leaves_exactly_once_expired_or_in_a_batch(
    arrivals: list[tuple[str, bool, float]], max_batch: int, capacity: int, now_s: float
) -> None:
    room = WaitingRoom(capacity)
    admitted: list[Any] = []
    for name, background, expires_s in arrivals:
        request = waiting(name, expires_s=expires_s, background=background)
        try:
            room.admit(request)
        except Overloaded:
            continue
        admitted.append(request)
    assert len(room) == len(admitted) <= capacity
    left: list[Any] = []
    while len(room):
        batch, expired = room.next_batch(now_s, max_batch)
        assert len(batch) <= max_batch
        assert len({request.kind for request in batch}) <= 1
        assert all(request.expires_s > now_s for request in batch)
        assert all(request.expires_s <= now_s for request in expired)
        left += batch + expired
    assert sorted(map(id, left)) == sorted(map(id, admitted))
