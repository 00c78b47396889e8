"""Evaluators: how far a candidate answer agrees with a reference, in [0, 1].

Belongs here: the built-in evaluators, finding plug-ins, validity of an answer.
Does not: embeddings themselves (`embed` is a callable from above), thresholds of control.

`structured_match` is all or nothing, so that mean agreement is the share of answers that are
exactly right in every field that counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from apprentice_pipeline import parts
from apprentice_pipeline.config import Task
from apprentice_pipeline.errors import ConfigError
from apprentice_pipeline.verify import answers
from apprentice_pipeline.verify.vectors import char_vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Embed = Callable[[list[str]], "NDArray[np.floating[Any]]"]


@runtime_checkable
class Evaluator(Protocol):
    """Judges a candidate answer against a reference; both in the output normal form."""

    @property
    def name(self) -> str:
        """What the evaluator is called in receipts and reports."""
        ...

    def score(self, reference: Any, candidate: Any) -> float:
        """Agreement in [0, 1]; 1 is full agreement."""
        ...


@dataclass(frozen=True, slots=True)
class StructuredMatch:
    """1.0 when every field of `fields` (every field, when empty) agrees, else 0.0.

    An answer that is not JSON agrees with nothing.
    """

    fields: tuple[str, ...] = ()
    name: str = "structured_match"

    def score(self, reference: Any, candidate: Any) -> float:
        """See the class."""
        left, right = answers.json_of(reference), answers.json_of(candidate)
        if left is answers.NOT_JSON or right is answers.NOT_JSON:
            return 0.0
        if not self.fields:
            return float(answers.same_json(left, right))
        if not (isinstance(left, dict) and isinstance(right, dict)):
            return 0.0
        return float(all(_same_field(left, right, each) for each in self.fields))


@dataclass(frozen=True, slots=True)
class ExactMatch:
    """1.0 when the answers are the same text (after NFC and outer whitespace), else 0.0.

    Answers that are more than text are compared as JSON values.
    """

    name: str = "exact_match"

    def score(self, reference: Any, candidate: Any) -> float:
        """See the class."""
        left, right = answers.text_of(reference), answers.text_of(candidate)
        if left is not None and right is not None:
            return float(answers.same_text(left, right))
        return float(answers.same_json(reference, candidate))


@dataclass(frozen=True, slots=True)
class SemanticSimilarity:
    """Cosine of the answers' embeddings, negative ones counted as 0.

    `embed` maps texts to rows of unit length. Two empty answers agree; one empty one does not.
    """

    embed: Embed
    name: str = "semantic_similarity"
    agree_at: float = 0.8

    def score(self, reference: Any, candidate: Any) -> float:
        """See the class."""
        return self.score_many([reference], [candidate])[0]

    def score_many(self, references: Sequence[Any], candidates: Sequence[Any]) -> list[float]:
        """One score a pair; `embed` is called once, with each distinct text."""
        left = [answers.plain(answers.text_of(each) or "") for each in references]
        right = [answers.plain(answers.text_of(each) or "") for each in candidates]
        if not left:
            return []
        texts = list(dict.fromkeys(left + right))
        place = {text: at for at, text in enumerate(texts)}
        vectors = self.embed(texts)
        cosines = (
            vectors[[place[text] for text in left]] * vectors[[place[text] for text in right]]
        ).sum(axis=1)
        return [
            _cosine_score(a, b, float(cosine))
            for a, b, cosine in zip(left, right, cosines, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Plugged:
    """An evaluator from outside, its scores checked."""

    name: str
    judge: Callable[[Any, Any], float]
    agree_at: float = field(default=0.5)

    def score(self, reference: Any, candidate: Any) -> float:
        """The plug-in's score.

        Raises: ConfigError when it breaks, or is not a number in [0, 1].
        """
        try:
            value = float(self.judge(reference, candidate))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(
                [f"it broke ({type(error).__name__})"],
                source=f"evaluator {self.name}",
                remedy="make the plug-in take every answer, empty and malformed ones too",
            ) from None
        if math.isnan(value) or not 0.0 <= value <= 1.0:
            raise ConfigError(
                [f"a score must lie in [0, 1], not {value}"],
                source=f"evaluator {self.name}",
                remedy="correct the plug-in's score",
            )
        return value


def evaluator_for(
    task: Task | None, outputs: Sequence[Any] = (), *, embed: Embed | None = None
) -> Evaluator:
    """The task's evaluator, or one chosen by the answers where no task is declared.

    JSON answers are matched on all fields, others by similarity: of meaning with `embed`, else
    of wording (it is then called `lexical_similarity`, so that nobody mistakes it). `custom` is
    the entry point named like the task, else the one named `custom`.

    Raises: ConfigError when a plug-in cannot be found or is not an evaluator.
    """
    if task is None:
        is_json = answers.shape_of(outputs).json
        return StructuredMatch() if is_json else _similarity(embed)
    if task.evaluator == "structured_match":
        return StructuredMatch(task.match_fields or tuple(task.output_schema))
    if task.evaluator == "exact_match":
        return ExactMatch()
    if task.evaluator == "semantic_similarity":
        return _similarity(embed)
    return _plug_in(task)


def score_all(
    evaluator: Evaluator, references: Sequence[Any], candidates: Sequence[Any]
) -> list[float]:
    """One score for each pair of a reference and a candidate, embedding them in one go."""
    if isinstance(evaluator, SemanticSimilarity):
        return evaluator.score_many(references, candidates)
    pairs = zip(references, candidates, strict=True)
    return [evaluator.score(reference, candidate) for reference, candidate in pairs]


def agree(evaluator: Evaluator, score: float) -> bool:
    """Whether a score counts as "the same answer": its `agree_at`, one half where it has none."""
    return score >= float(getattr(evaluator, "agree_at", 0.5))


def output_valid(task: Task | None, text: str, shape: answers.AnswerShape) -> bool:
    """Whether an answer is one that the task (else the stream's `shape`) can give at all.

    A declared `output_schema` wants a JSON object with every field in its type; a JSON stream
    wants the fields its answers share; any other stream wants text that is neither empty nor
    absurdly long.
    """
    if not text.strip() or len(text) > shape.max_chars:
        return False
    declared = task is not None and bool(task.output_schema)
    if not declared and not shape.json:
        return True
    value = answers.json_of(text)
    if value is answers.NOT_JSON:
        return False
    if task is not None and declared:
        return answers.schema_fault(value, task) is None
    return answers.has_shape(value, shape)


def _similarity(embed: Embed | None) -> SemanticSimilarity:
    if embed is not None:
        return SemanticSimilarity(embed)
    return SemanticSimilarity(char_vectors, name="lexical_similarity", agree_at=0.5)


def _same_field(left: dict[str, Any], right: dict[str, Any], name: str) -> bool:
    if name not in left or name not in right:
        return name not in left and name not in right
    return answers.same_json(left[name], right[name])


def _cosine_score(reference: str, candidate: str, cosine: float) -> float:
    if not reference or not candidate:
        return float(reference == candidate)
    if reference == candidate:
        return 1.0
    return min(1.0, max(0.0, cosine))


def _plug_in(task: Task) -> Evaluator:
    name = task.evaluator
    if name == "custom" and parts.is_registered(parts.EVALUATORS, task.name):
        name = task.name
    found = parts.load(parts.EVALUATORS, name)
    source = f"evaluator {name} of task {task.name}"
    return _as_evaluator(found() if isinstance(found, type) else found, name, source)


def _as_evaluator(found: Any, name: str, source: str) -> Evaluator:
    judge = getattr(found, "score", found)
    if not callable(judge):
        raise ConfigError(
            ["neither a function of (reference, candidate) nor an object with `score`"],
            source=source,
            remedy="give it a `score(reference, candidate)` that returns a number in [0, 1]",
        )
    return Plugged(
        name=str(getattr(found, "name", name)),
        judge=judge,
        agree_at=float(getattr(found, "agree_at", 0.5)),
    )
