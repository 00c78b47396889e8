"""Exercises as padded tensors: which tokens are learnt, and with what weight.

Promises: batch n is a function of (material, tokenizer, seed, n) alone.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apprentice_pipeline.demo.pretraining.exercises import Exercise, Material, write_exercise
from apprentice_pipeline.demo.pretraining.vocabulary import ASSISTANT, END, SYSTEM, USER

if TYPE_CHECKING:
    import torch

_POOL = 16  # batches drawn together and sorted by length, so that little is padding
# Answers are learnt whole; of requests and dialogue only a share of the tokens, drawn anew each
# time: scoring a token against the vocabulary costs more than reading it.
_REQUEST_SHARE, _DIALOGUE_SHARE = 0.3, 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens` (B, T) right-padded; `learnt` (B, T) which tokens are targets of the loss;
    `read_at` (n, 2) row and column of the last prompt token; `read` (n, vocabulary) the words
    that should be readable there, each row summing to one."""

    tokens: "torch.Tensor"
    learnt: "torch.Tensor"
    read_at: "torch.Tensor"
    read: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class _Encoded:
    tokens: tuple[int, ...]
    learnt: tuple[bool, ...]
    answer_at: int
    request: frozenset[int]


def token_weights(tokenizer: Any, texts: Sequence[str]) -> list[float]:
    """Inverse document frequency of every token over `texts`, in nats."""
    counts = Counter(
        token for e in _encode(tokenizer, [f" {text}" for text in texts]) for token in set(e)
    )
    return [math.log(len(texts) / (1 + counts[token])) for token in range(len(tokenizer))]


def batches(
    material: Material, tokenizer: Any, seed: int, size: int, max_tokens: int
) -> Iterator[Batch]:
    """Batches without end, in pools of similar length."""
    rng = random.Random(seed)
    idf = token_weights(tokenizer, [turn.text for turn in material.turns])
    while True:
        drawn = [write_exercise(material, rng) for _ in range(_POOL * size)]
        encoded = [e for e in _encode_all(tokenizer, drawn, rng) if len(e.tokens) <= max_tokens]
        encoded.sort(key=lambda e: len(e.tokens))
        parts = [encoded[at : at + size] for at in range(0, len(encoded) - size + 1, size)]
        rng.shuffle(parts)
        yield from (_pad(part, idf) for part in parts)


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _encode_all(
    tokenizer: Any, exercises: Sequence[Exercise], rng: random.Random
) -> list[_Encoded]:
    segments = [_segments(exercise) for exercise in exercises]
    ids = iter(_encode(tokenizer, [text for parts in segments for text, _ in parts]))
    return [_join([(next(ids), share) for _, share in parts], rng) for parts in segments]


def _segments(exercise: Exercise) -> list[tuple[str, float]]:
    """The conversation as the chat template renders it, with each part's share of learnt tokens."""
    answered = bool(exercise.answer)
    parts = []
    if exercise.system:
        parts.append((f"{SYSTEM} {exercise.system}{END}", 0.0))
    if exercise.before:
        parts.append((f"{ASSISTANT}{exercise.before}{END}", 0.0 if answered else _DIALOGUE_SHARE))
    parts.append(
        (f"{USER} {exercise.request}{END}", _REQUEST_SHARE if answered else _DIALOGUE_SHARE)
    )
    if answered:
        parts.append((f"{ASSISTANT}{exercise.answer}{END}", 1.0))
    return parts


def _join(parts: Sequence[tuple[list[int], float]], rng: random.Random) -> _Encoded:
    tokens: list[int] = []
    learnt: list[bool] = []
    for ids, share in parts:
        tokens += ids
        learnt += [False, *(rng.random() < share for _ in ids[1:])]
    answered = parts[-1][1] == 1.0
    answer_at = len(tokens) - len(parts[-1][0]) if answered else -1
    request = parts[-2][0][1:-1] if answered else []
    return _Encoded(tuple(tokens), tuple(learnt), answer_at, frozenset(request))


def _pad(rows: Sequence[_Encoded], idf: Sequence[float]) -> Batch:
    import torch

    width = -(-max(len(row.tokens) for row in rows) // 8) * 8
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    learnt = torch.zeros(len(rows), width, dtype=torch.bool)
    read_at, read = [], []
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = torch.tensor(row.tokens)
        learnt[number, : len(row.learnt)] = torch.tensor(row.learnt)
        if row.answer_at >= 0 and row.request:
            read_at.append((number, row.answer_at))
            target = torch.zeros(len(idf))
            for token in row.request:
                target[token] = max(idf[token], 0.0)
            read.append(target / target.sum().clamp(min=1e-6))
    at = torch.tensor(read_at, dtype=torch.long).reshape(-1, 2)
    return Batch(tokens, learnt, at, torch.stack(read) if read else torch.zeros(0, len(idf)))
