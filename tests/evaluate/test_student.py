"""A student answers the same alone, in company, asked again, and as plain decoding would."""

import math
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.distill.base_model import resolve_base
from apprentice_pipeline.distill.training import LoraSettings, TrainingRow, train_adapter
from apprentice_pipeline.errors import ArtifactError, BaseModelMissing, DistillError
from apprentice_pipeline.evaluate.student import Student

ASKED = (
    "please check my balance",
    "freeze the card",
    "please freeze the card, please, the card, my card, please",
    "card",
)
TAUGHT = ("show_balance", "freeze_card", "freeze_twice", "card")


def chat(text: Any, system: str = "Answer.") -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


@pytest.fixture(scope="module")
def base() -> Path:
    return resolve_base("embedded").path


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "adapter"
    rows = [TrainingRow(tuple(chat(text)), told) for text, told in zip(ASKED, TAUGHT, strict=True)]
    settings = LoraSettings(
        rank=16, alpha=32, dropout=0.0, epochs=80, learning_rate=3e-3, batch_size=4
    )
    train_adapter(rows, base, out, settings)
    return out


@pytest.fixture(scope="module")
def student(base: Path, adapter: Path) -> Student:
    return Student.load(base, adapter)


def test_it_answers_what_it_was_taught(student: Student) -> None:
    answers = student.generate([chat(text) for text in ASKED])
    assert tuple(a.text for a in answers) == TAUGHT
    assert {a.finish_reason for a in answers} == {"stop"}
    assert all(0 < a.confidence <= 1 and a.latency_us > 0 for a in answers)


@pytest.mark.parametrize("taught", [False, True])
def test_company_does_not_change_an_answer(base: Path, adapter: Path, taught: bool) -> None:
    student = Student.load(base, adapter if taught else None)
    together = student.generate([chat(text) for text in ASKED], max_new_tokens=12)
    for text, answer in zip(ASKED, together, strict=True):
        alone = student.generate([chat(text)], max_new_tokens=12)[0]
        assert alone.text == answer.text
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-3)
        assert (alone.input_tokens, alone.output_tokens) == (
            answer.input_tokens,
            answer.output_tokens,
        )


def test_drafts_change_no_answer(base: Path, adapter: Path) -> None:
    student = Student.load(base, adapter)
    first = [student.generate([chat(text)])[0] for text in ASKED]
    for _ in range(2):
        again = [student.generate([chat(text)])[0] for text in ASKED]
        assert [a.text for a in again] == [a.text for a in first]
        for one, other in zip(first, again, strict=True):
            assert one.confidence == pytest.approx(other.confidence, rel=1e-3)


def test_it_decodes_as_the_library_does(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    student = Student.load(base, None)
    for text in ASKED:
        prompt = tokenizer.apply_chat_template(
            chat(text), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        expected = model.generate(**prompt, do_sample=False, max_new_tokens=10)[0]
        answer = student.generate([chat(text)], max_new_tokens=10)[0]
        ids = expected[prompt["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_confidence_is_the_probability_of_the_whole_answer(
    student: Student, base: Path, adapter: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, adapter).eval()
    answer = student.generate([chat(ASKED[0])])[0]
    prompt = tokenizer.apply_chat_template(
        chat(ASKED[0]), add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(prompt + answer.text + "<|end|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        scores = model(ids).logits.log_softmax(-1)[0, answer.input_tokens - 1 : -1]
    expected = scores.gather(1, ids[0, answer.input_tokens :, None]).sum()
    assert answer.confidence == pytest.approx(math.exp(expected), rel=1e-3)


def test_text_blocks_read_like_the_same_text(student: Student) -> None:
    blocks = chat([{"type": "text", "text": ASKED[0]}])
    one, other = student.generate([blocks, chat(ASKED[0])])
    assert one.text == other.text


def test_content_that_is_not_text_is_refused(student: Student) -> None:
    with pytest.raises(DistillError, match="other than text"):
        student.generate([chat([{"type": "image_url", "image_url": {}}])])


def test_an_answer_cut_at_the_limit_says_so(student: Student) -> None:
    answer = student.generate([chat(ASKED[0])], max_new_tokens=2)[0]
    assert (answer.finish_reason, answer.output_tokens) == ("length", 2)


def test_a_conversation_that_fills_the_context_gets_no_answer_and_spares_the_others(
    student: Student,
) -> None:
    too_long, fine = student.generate([chat("card " * 2100), chat(ASKED[0])])
    assert (too_long.text, too_long.confidence, too_long.finish_reason) == ("", 0.0, "length")
    assert fine.text == TAUGHT[0]


def test_nothing_asked_nothing_answered(student: Student) -> None:
    assert student.generate([]) == []


def test_an_adapter_for_another_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from apprentice_pipeline.demo.pretraining.optimise import Shape, new_model

    other = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(base)
    shape = Shape(vocabulary=420, width=64, inner=64, layers=1, heads=2, context_tokens=256)
    new_model(shape, tokenizer, seed=3).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(ArtifactError, match="does not fit"):
        Student.load(other, adapter)


def test_a_missing_base_and_a_missing_adapter_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelMissing):
        Student.load(tmp_path, None)
    with pytest.raises(ArtifactError, match="no adapter weights"):
        Student.load(base, tmp_path)
