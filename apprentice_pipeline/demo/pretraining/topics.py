"""Label sets found in the text itself: clusters of turns, named by their own words.

The annotation of the corpus has 46 intents; a base trained on those alone learns that label
set. Clusters at several grains give thousands of further classes, named as people name
intents (`phone_number`, `transfer_money`), for the same requests.
Method: tf-idf, truncated SVD, spherical k-means. Promises: deterministic for a seed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apprentice_pipeline.demo.pretraining.turns import words

if TYPE_CHECKING:
    import torch

_MIN_DOCUMENTS = 6
_MIN_CONTENT_WORDS = 2
_RAREST = 6.5  # nats; beyond it a word is a name or a slip, no more telling than the next
_FUNCTION_WORDS_TEXT = """
a able about above actually after again ah all alright also am an and another any anything are
as at awesome be because been but by bye can can't cool could d did do does doesn't don't else
every everything excellent fine first for from get give go going good got great had has have he
hello help her hey hi him his how i i'd i'll i'm i've if in into is it it's its just kind know
let let's like ll look looking lot m make may maybe me might more much my need nice no nope not
now of oh ok okay on one only or other our out over perfect please prefer preferably really
right s say see she should so some something sorry sound sounds sure t tell than thank thanks
that that'll that's the their them then there there's they they're thing things think this those
to too up us ve very wait want was we we're well were what what's when where which who will wish
with won't would yeah yep yes you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Inverse document frequency (nats) of every word, most common first."""

    idf: dict[str, float]

    def weight(self, word: str) -> float:
        """How telling a word is; unknown words count as rare."""
        return min(self.idf.get(word, _RAREST), _RAREST)

    def content(self, text: str) -> list[str]:
        """Distinct words of `text` that are not function words, in text order."""
        return list(dict.fromkeys(w for w in words(text) if w not in FUNCTION_WORDS and len(w) > 1))


def build_lexicon(texts: Sequence[str]) -> Lexicon:
    """Counts words over `texts`."""
    counts = Counter(w for text in texts for w in set(words(text)))
    ordered = sorted(counts, key=lambda w: (-counts[w], w))
    return Lexicon({w: math.log(len(texts) / counts[w]) for w in ordered})


@dataclass(frozen=True, slots=True)
class Topics:
    """One clustering: the cluster of each text (-1 where a text says too little) and the names."""

    assignment: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]


def find_topics(
    texts: Sequence[str], lexicon: Lexicon, grains: Sequence[int], seed: int
) -> list[Topics]:
    """One clustering for each number of clusters in `grains`."""
    import torch

    contents = [lexicon.content(text) for text in texts]
    frequent = Counter(w for content in contents for w in content)
    vocabulary = sorted(w for w, n in frequent.items() if n >= _MIN_DOCUMENTS)
    columns = {w: i for i, w in enumerate(vocabulary)}
    rows = [[columns[w] for w in content if w in columns] for content in contents]
    useful = [i for i, row in enumerate(rows) if len(row) >= _MIN_CONTENT_WORDS]
    torch.manual_seed(seed)
    vectors = _embed([rows[i] for i in useful], [lexicon.weight(w) for w in vocabulary])
    found = []
    for grain in grains:
        clusters = _k_means(vectors, grain).tolist()
        assignment = [-1] * len(texts)
        for i, cluster in zip(useful, clusters, strict=True):
            assignment[i] = cluster
        names = _names([rows[i] for i in useful], clusters, grain, vocabulary, lexicon)
        found.append(Topics(tuple(assignment), names))
    return found


def _embed(
    rows: Sequence[Sequence[int]], weights: Sequence[float], size: int = 96
) -> "torch.Tensor":
    """tf-idf rows projected on their leading singular vectors, at unit length."""
    import torch

    lengths = [math.sqrt(sum(weights[c] ** 2 for c in row)) for row in rows]
    index = torch.tensor([[i, c] for i, row in enumerate(rows) for c in row]).T
    values = torch.tensor([weights[c] / lengths[i] for i, row in enumerate(rows) for c in row])
    shape = (len(rows), len(weights))
    matrix = torch.sparse_coo_tensor(index, values, shape, check_invariants=True).coalesce()
    size = min(size, len(rows), len(weights))
    _, _, basis = torch.svd_lowrank(matrix, q=size, niter=3)
    return torch.nn.functional.normalize(torch.sparse.mm(matrix, basis), dim=1)


def _k_means(vectors: "torch.Tensor", clusters: int, rounds: int = 12) -> "torch.Tensor":
    import torch

    centres = vectors[torch.randperm(len(vectors))[:clusters]].clone()
    nearest = torch.zeros(len(vectors), dtype=torch.long)
    for _ in range(rounds):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in torch.split(vectors, 8192)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        occupied = sums.norm(dim=1) > 0
        centres[occupied] = torch.nn.functional.normalize(sums[occupied], dim=1)
    return nearest


def _names(
    rows: Sequence[Sequence[int]],
    clusters: Sequence[int],
    grain: int,
    vocabulary: Sequence[str],
    lexicon: Lexicon,
) -> tuple[tuple[str, ...], ...]:
    """Names a cluster by its two or three most telling words; no two clusters share a name."""
    counts: list[Counter[int]] = [Counter() for _ in range(grain)]
    for row, cluster in zip(rows, clusters, strict=True):
        counts[cluster].update(row)
    taken: set[tuple[str, ...]] = set()
    names = []
    for number, count in enumerate(counts):
        telling = sorted(count, key=lambda c: (-count[c] * lexicon.weight(vocabulary[c]), c))
        words_only = [vocabulary[c] for c in telling if vocabulary[c].isalpha()]
        candidates = [*words_only[:8], f"group{number}"]
        name = next(n for n in _spellings(candidates) if n not in taken)
        taken.add(name)
        names.append(name)
    return tuple(names)


def _spellings(candidates: Sequence[str]) -> list[tuple[str, ...]]:
    first = candidates[0]
    pairs = [(first, other) for other in candidates[1:]]
    triples = [(*candidates[:2], other) for other in candidates[2:]]
    return [*pairs, *triples, (first,)]
