"""The sample data: the file that ships is the one the generator writes, clean and learnable."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.demo import samples
from apprentice_pipeline.demo.sample_grammar import manners
from apprentice_pipeline.demo.sample_grammar.similarity import Crowd, grams, jaccard
from apprentice_pipeline.demo.sample_grammar.speech import Draw, say
from apprentice_pipeline.demo.traffic import TrafficLine, read_traffic, split_waves
from apprentice_pipeline.errors import StoreError

DATA = Path(__file__).resolve().parents[2] / "data"
SHIPPED = DATA / samples.FILE_NAME


@pytest.fixture(scope="module")
def lines() -> list[TrafficLine]:
    return read_traffic(SHIPPED)


def test_the_command_writes_the_shipped_file_byte_for_byte(tmp_path: Path) -> None:
    assert samples.main(["--seed", "7", "--out", str(tmp_path)]) == 0
    assert (tmp_path / samples.FILE_NAME).read_bytes() == SHIPPED.read_bytes()


def test_the_readme_states_the_files_digest_and_count(lines: list[TrafficLine]) -> None:
    readme = (DATA / "README.md").read_text()
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() in readme
    assert f"{len(lines):,} requests" in readme
    assert "python -m apprentice_pipeline.demo.samples --seed 7 --out data" in readme
    for kind in samples.kinds():
        assert f"`{kind.category}`" in readme


def test_it_is_small_large_enough_and_has_no_text_twice(lines: list[TrafficLine]) -> None:
    assert SHIPPED.stat().st_size < 1_000_000
    assert len(lines) >= 3000
    assert len({line.text for line in lines}) == len(lines)
    assert all(list(line.answer) == ["category"] for line in lines)


def test_every_category_is_well_represented(lines: list[TrafficLine]) -> None:
    categories = Counter(line.answer["category"] for line in lines)
    assert categories.keys() == {kind.category for kind in samples.kinds()}
    assert len(categories) >= 14
    assert min(categories.values()) >= 150


def test_no_two_texts_are_near_duplicates(lines: list[TrafficLine]) -> None:
    crowd = Crowd(samples.SIMILARITY_LIMIT, pilot=[line.text for line in lines])
    assert all(crowd.admit(line.text) for line in lines)


@given(
    st.lists(st.text("ab ", min_size=1, max_size=30), max_size=12),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.booleans(),
)
def test_the_near_duplicate_search_misses_nothing(
    texts: list[str], limit: float, piloted: bool
) -> None:
    crowd = Crowd(limit, texts if piloted else ())
    kept: list[frozenset[str]] = []
    for text in texts:
        similar = any(jaccard(grams(text), other) >= limit for other in kept)
        assert crowd.admit(text) is not similar
        if not similar:
            kept.append(grams(text))


def test_each_kind_has_many_phrasings_and_they_say_nothing_of_urgency() -> None:
    urgent = re.compile(
        r"\b(urgent|asap|emergency|immediately|critical|deadline|hurry|rush|right away|priority"
        r"|escalate|whenever|take your time|at your convenience|no pressure|cannot wait)\b"
    )
    for kind in samples.kinds():
        assert len(set(kind.core_lines())) == len(kind.core_lines()) >= 12
        for line in kind.core_lines() + kind.detail_lines():
            assert not urgent.search(line), line


def test_every_phrasing_is_well_formed() -> None:
    known = manners.SLOTS.keys() | {"n", "amount", "order"}
    spoken = [line for k in samples.kinds() for line in k.core_lines() + k.detail_lines()]
    for block in (manners.URGENT, manners.CALM, manners.GREETINGS, manners.CLOSINGS):
        spoken += block.strip().splitlines()
    for line in spoken:
        assert set(re.findall(r"\{(\w+)\}", line)) <= known, line
        assert line.count("(") == line.count(")"), line
        assert line == line.strip(), line


def test_no_text_shows_grammar_signs(lines: list[TrafficLine]) -> None:
    assert not [line.text for line in lines if set(line.text) & set("{}|()\n")]


def test_an_urgent_phrase_is_never_misspelt() -> None:
    kind = samples.kinds()[0]
    phrases = [re.sub(r"\(.*", "", p).strip() for p in manners.CALM.strip().splitlines()]
    draw = Draw("seed")
    for _ in range(300):
        text = say(kind, kind.core_lines()[0], "calm", draw).casefold()
        assert any(phrase.casefold() in text for phrase in phrases), text


def test_the_label_can_be_read_from_the_words(lines: list[TrafficLine]) -> None:
    """A naive Bayes over words, the plainest of learners, finds the category of unseen lines."""
    train, held = split_waves(lines, 0.6, seed=11)
    assert 1100 < len(train) < 1500
    guess = naive_bayes([(words(x.text), x.answer["category"]) for x in train])
    right = sum(guess(words(x.text)) == x.answer["category"] for x in held)
    assert right / len(held) > 0.9


def words(text: str) -> list[str]:
    found = re.findall(r"[a-z0-9]+", text.casefold())
    return found + [f"{a} {b}" for a, b in pairwise(found)]


def naive_bayes(rows: list[tuple[list[str], str]]):
    from math import log

    counts: dict[str, Counter[str]] = {}
    for found, label in rows:
        counts.setdefault(label, Counter()).update(found)
    totals = {label: sum(seen.values()) for label, seen in counts.items()}
    size = len({word for seen in counts.values() for word in seen})

    def guess(found: list[str]) -> str:
        def score(label: str) -> float:
            seen, total = counts[label], totals[label] + 0.05 * size
            return sum(log((seen[word] + 0.05) / total) for word in found)

        return max(counts, key=score)

    return guess


def test_other_seeds_and_counts_are_repeatable() -> None:
    assert samples.generate(3, 300) == samples.generate(3, 300)
    assert samples.generate(3, 300) != samples.generate(4, 300)
    assert len(samples.generate(3, 300)) == 300


def test_the_path_is_the_repositorys_file(tmp_path: Path) -> None:
    assert samples.sample_path(tmp_path) == SHIPPED
    assert not list(tmp_path.iterdir())


def test_an_installation_without_the_file_makes_it(tmp_path: Path) -> None:
    package = Path(samples.__file__).resolve().parents[1]
    installed = tmp_path / "site" / package.name
    shutil.copytree(package / "demo" / "sample_grammar", installed / "demo" / "sample_grammar")
    for name in ("__init__.py", "errors.py", "demo/__init__.py", "demo/samples.py"):
        shutil.copy(package / name, installed / name)
    program = (
        "import pathlib, sys\n"
        "from apprentice_pipeline.demo.samples import sample_path\n"
        "sys.stdout.write(str(sample_path(pathlib.Path(sys.argv[1]))))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "made")],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert Path(made).parent == tmp_path / "made"
    assert Path(made).read_bytes() == SHIPPED.read_bytes()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        samples.write_samples(occupied / "below", count=40)
    assert samples.main(["--out", str(occupied / "below"), "--count", "40"]) == 1
