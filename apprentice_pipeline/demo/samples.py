"""The project's own sample data: support requests with the answers a frontier gives to them.

`python -m apprentice_pipeline.demo.samples --seed 7 --out data` writes the file the repository
ships, byte for byte. The phrasings are in `sample_grammar/`. Promises: the category
follows from what the text wants, and no two texts share 70 % of their character 5-grams.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from apprentice_pipeline.demo.sample_grammar import accounts, elsewhere, purchases, technical
from apprentice_pipeline.demo.sample_grammar.kind import Kind
from apprentice_pipeline.demo.sample_grammar.similarity import Crowd
from apprentice_pipeline.demo.sample_grammar.speech import Draw, say
from apprentice_pipeline.errors import StorageFull, StoreError

FILE_NAME = "support_requests.jsonl"
SEED = 7
COUNT = 3050
SIMILARITY_LIMIT = 0.7

_OTHER_WEIGHT = 2  # the rest of the world is wider than any one kind
_URGENT_SHARE, _CALM_SHARE = 0.1, 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """One request and what it is about."""

    text: str
    category: str


def kinds() -> tuple[Kind, ...]:
    """Every kind of request, `other` last."""
    return (*purchases.KINDS, *accounts.KINDS, *technical.KINDS, *elsewhere.KINDS)


def generate(seed: int = SEED, count: int = COUNT) -> list[Sample]:
    """`count` samples in a drawn order; the same seed and count give the same samples."""
    everything = kinds()
    pilot = Draw(f"{seed}/pilot")
    crowd = Crowd(
        SIMILARITY_LIMIT, (say(k, c, "", pilot) for k in everything for c in k.core_lines())
    )
    shares = len(everything) - 1 + _OTHER_WEIGHT
    samples: list[Sample] = []
    for place, kind in enumerate(everything):
        last = place == len(everything) - 1
        wanted = count - len(samples) if last else count // shares
        samples += _samples(kind, wanted, crowd, Draw(f"{seed}/{kind.category}"))
    order = Draw(f"{seed}/order").shuffled(len(samples))
    return [samples[place] for place in order]


def _samples(kind: Kind, wanted: int, crowd: Crowd, draw: Draw) -> list[Sample]:
    """Goes round the cores until `wanted` texts were different enough."""
    cores = kind.core_lines()
    found: list[Sample] = []
    turn = 0
    while len(found) < wanted:
        urgency = _urgency(draw)
        text = say(kind, cores[turn % len(cores)], urgency, draw)
        turn += 1
        if crowd.admit(text):
            found.append(Sample(text, kind.category))
    return found


def _urgency(draw: Draw) -> str:
    if draw.chance(_URGENT_SHARE):
        return "urgent"
    return "calm" if draw.chance(_CALM_SHARE / (1 - _URGENT_SHARE)) else ""


def write_samples(folder: Path, seed: int = SEED, count: int = COUNT) -> Path:
    """Writes `support_requests.jsonl` into `folder`, made if absent; returns its path.

    Raises: StoreError when the folder cannot be written.
    """
    body = b"".join(orjson.dumps(sample) + b"\n" for sample in generate(seed, count))
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    except OSError as error:
        kind = StorageFull if error.errno == 28 else StoreError
        raise kind(
            f"the sample data cannot be written ({error.strerror})",
            remedy="choose a folder with room that can be written",
        ) from None
    return path


def sample_path(folder: Path) -> Path:
    """The sample data: the repository's own file, else one made in `folder` (a wheel has none).

    Raises: StoreError when it has to be made and cannot.
    """
    shipped = Path(__file__).resolve().parents[2] / "data" / FILE_NAME
    if shipped.is_file():
        return shipped
    made = folder / FILE_NAME
    return made if made.is_file() else write_samples(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the sample data; says on stderr what it wrote, or (and returns 1) why it could not."""
    parser = argparse.ArgumentParser(prog="python -m apprentice_pipeline.demo.samples")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    options = parser.parse_args(argv)
    try:
        path = write_samples(options.out, options.seed, options.count)
    except StoreError as error:
        sys.stderr.write(f"{error}\n{error.remedy}\n")
        return 1
    sys.stderr.write(f"{options.count} requests in {path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
