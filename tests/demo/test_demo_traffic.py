"""Traffic files: what is read, what is refused and how, and the split in two waves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.demo.traffic import TrafficLine, read_traffic, split_waves
from apprentice_pipeline.errors import TrafficError

GOOD = '{"text": "where is my parcel", "category": "shipping", "priority": 2}'
SECRET = "Zaphod"


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "traffic.jsonl"
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return path


def test_the_answer_is_every_field_but_the_text(tmp_path: Path) -> None:
    lines = read_traffic(write(tmp_path, GOOD))
    assert lines == [TrafficLine("where is my parcel", {"category": "shipping", "priority": 2})]


def test_blank_lines_a_byte_order_mark_and_windows_ends_are_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode() + b"\r", "", "  \t", GOOD, "")
    assert len(read_traffic(path)) == 2


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (f'{{"text": "{SECRET}"', "not JSON"),
        (f'["{SECRET}"]', "not a JSON object"),
        (f'"{SECRET}"', "not a JSON object"),
        (f'{{"category": "{SECRET}", "priority": 2}}', "no field `text`"),
        ('{"text": null, "category": "x", "priority": 2}', "no field `text`"),
        ('{"text": 7, "category": "x", "priority": 2}', "`text` is not a string"),
        ('{"text": "  ", "category": "x", "priority": 2}', "`text` is empty"),
        (f'{{"text": "{SECRET}"}}', "no answer field"),
        (f'{{"text": "{SECRET}", "category": "x"}}', "`priority` missing"),
        (f'{{"text": "x", "category": "x", "priority": 1, "{SECRET}": 1}}', "1 more than there"),
        (b'{"text": "Zaphod \xff", "category": "x", "priority": 1}', "not UTF-8"),
        ('{"text": "x", "category": NaN, "priority": 1}', "not JSON"),
    ],
)
def test_a_faulty_line_is_named_by_number_and_cause_never_by_its_text(
    tmp_path: Path, line: str | bytes, cause: str
) -> None:
    with pytest.raises(TrafficError) as refused:
        read_traffic(write(tmp_path, GOOD, "", line, GOOD))
    assert "line 3: " in str(refused.value)
    assert cause in str(refused.value)
    assert SECRET not in str(refused.value) + refused.value.remedy
    assert refused.value.remedy


def test_all_faults_come_together_and_the_first_ten_are_listed(tmp_path: Path) -> None:
    with pytest.raises(TrafficError) as refused:
        read_traffic(write(tmp_path, GOOD, *["no"] * 13))
    message = str(refused.value)
    assert "13 faulty lines" in message
    assert "line 11: not JSON" in message
    assert "line 12" not in message
    assert "and 3 more" in message


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(TrafficError, match="no lines"):
        read_traffic(write(tmp_path, content))


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(TrafficError, match="cannot be read"):
            read_traffic(path)


def lines_of(count: int) -> list[TrafficLine]:
    return [TrafficLine(f"Request number {n}", {"n": n}) for n in range(count)]


def test_the_second_wave_has_about_its_share_and_the_split_is_repeatable() -> None:
    lines = lines_of(2000)
    first, second = split_waves(lines, 0.25, seed=5)
    assert 400 < len(second) < 600
    assert sorted(x.answer["n"] for x in first + second) == list(range(2000))
    assert (first, second) == split_waves(lines, 0.25, seed=5)
    assert second != split_waves(lines, 0.25, seed=6)[1]


@given(st.lists(st.sampled_from(["a", "A ", " a", "b", "c  d", "C D", "é", "e\u0301"]), min_size=1))
def test_no_text_stands_in_both_waves(texts: list[str]) -> None:
    lines = [*lines_of(40), *(TrafficLine(text, {"n": 0}) for text in texts)]
    first, second = split_waves(lines, 0.5, seed=1)

    def folded(wave: list[TrafficLine]) -> set[str]:
        return {" ".join(x.text.casefold().replace("e\u0301", "é").split()) for x in wave}

    assert not folded(first) & folded(second)


def test_a_text_keeps_its_side_as_the_file_grows() -> None:
    small, large = (split_waves(lines_of(n), 0.3, seed=5)[1] for n in (200, 900))
    assert large[: len(small)] == small


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (50, 0.0), (50, 1.0), (3, 0.0001)])
def test_impossible_splits_are_refused(count: int, share: float) -> None:
    with pytest.raises(TrafficError):
        split_waves(lines_of(count), share, seed=1)


def test_it_reads_what_json_writes(tmp_path: Path) -> None:
    text = "Zoë 🙂 \u2028 李雷"
    path = write(tmp_path, json.dumps({"text": text, "answer": "x"}, ensure_ascii=False))
    assert read_traffic(path)[0].text == text
