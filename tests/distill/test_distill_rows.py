"""What of a row is read and what is learnt."""

from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.distill.rows import TrainingRow, content_text, encode_rows
from apprentice_pipeline.errors import DistillError


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def test_the_answer_and_its_end_are_learnt_and_the_prompt_is_not(tokenizer: Any) -> None:
    row = TrainingRow(({"role": "user", "content": "freeze"},), '{"a":1}')
    encoded = encode_rows([row], tokenizer)[0]
    assert tokenizer.decode(encoded.tokens[: encoded.prompt_length]) == (
        "<|user|> freeze<|end|><|assistant|>"
    )
    assert tokenizer.decode(encoded.tokens[encoded.prompt_length :]) == '{"a":1}<|end|>'


def test_text_blocks_read_like_the_same_text(tokenizer: Any) -> None:
    blocks = [{"type": "text", "text": "freeze"}, {"type": "text", "text": "it"}]
    one = TrainingRow(({"role": "user", "content": blocks},), "x")
    other = TrainingRow(({"role": "user", "content": "freeze\nit"},), "x")
    assert encode_rows([one], tokenizer) == encode_rows([other], tokenizer)


@pytest.mark.parametrize("content", [None, 3, [{"type": "image_url", "image_url": {}}]])
def test_content_that_is_not_text_is_refused(content: object) -> None:
    with pytest.raises(DistillError, match="other than text"):
        content_text(content)
