"""The order of training rows, as properties."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.distill.draws import draw_order

weights = st.lists(st.floats(0.05, 20), min_size=1, max_size=60)


@given(weights, st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_each_epoch_draws_a_row_by_its_weight_rounded_down_or_up(
    weights: list[float], epochs: int, batch_size: int, seed: int
) -> None:
    rows = len(weights)
    order = draw_order([1] * rows, weights, epochs=epochs, batch_size=batch_size, seed=seed)
    assert len(order) == rows * epochs
    drawn = Counter(order)
    for row, weight in enumerate(weights):
        expected = rows * weight / sum(weights)
        assert epochs * (int(expected - 1e-6)) <= drawn[row] <= epochs * (int(expected + 1e-6) + 1)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99))
def test_equal_weights_draw_every_row_once_an_epoch(rows: int, batch_size: int, seed: int) -> None:
    order = draw_order([1] * rows, [0.3] * rows, epochs=2, batch_size=batch_size, seed=seed)
    assert set(Counter(order).values()) == {2}


@given(st.integers(0, 99))
def test_the_seed_alone_decides(seed: int) -> None:
    def drawn(at: int) -> list[int]:
        return draw_order(list(range(40)), [1.0] * 40, epochs=2, batch_size=4, seed=at)

    assert drawn(seed) == drawn(seed)
    assert drawn(seed) != drawn(seed + 1)


def test_a_batch_holds_rows_of_similar_length() -> None:
    lengths = [n % 50 for n in range(400)]
    order = draw_order(lengths, [1.0] * 400, epochs=1, batch_size=8, seed=0)
    spans = [
        max(lengths[r] for r in order[at : at + 8]) - min(lengths[r] for r in order[at : at + 8])
        for at in range(0, 400, 8)
    ]
    assert sum(spans) / len(spans) < 5
