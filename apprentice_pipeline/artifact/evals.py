"""`evals.json`: what was measured, in enough detail to compute K again.

Belongs here: the document and the recomputation. Does not: the K-score itself (`evaluate`).
Promise: a K that its own rows do not give is refused; rows are named by keyed hashes only, and
hold their text only where it was given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from apprentice_pipeline.artifact.canonical import canonical, read_json
from apprentice_pipeline.artifact.members import EVALS
from apprentice_pipeline.errors import ApprenticeError, ArtifactError

if TYPE_CHECKING:
    from apprentice_pipeline.evaluate.kscore import EvalRow, KScore, ScoreInputs

FORMAT = "kolm-evals-1"
TOLERANCE = 1e-6
_KEYS = {"format", "inputs", "rows", "score"}
_COMPARED = ("k", "low", "high", "fidelity", "fidelity_low", "fidelity_high", "n", "k_score_v1")
_BOUNDS = {"score": 1, "confidence": 1, "weight": 1e6, "latency_us": 1e12}
_MAX_DRAWS = 1_000_000_000
_TEXT = "text"
_ROW_HASH = re.compile(r"[0-9a-f]{32,64}")


def evals_document(
    rows: Sequence[EvalRow],
    inputs: ScoreInputs,
    score: KScore,
    texts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The document of a measured holdout; `texts` are `row_text`s by row hash."""
    texts = texts or {}
    return {
        "format": FORMAT,
        "inputs": inputs.to_dict(),
        "rows": [
            row.to_dict() | ({_TEXT: texts[row.row_hash]} if row.row_hash in texts else {})
            for row in rows
        ],
        "score": score.to_dict(),
    }


def row_text(messages: Sequence[Mapping[str, Any]], completion: str) -> dict[str, Any]:
    """The text of one row: what was asked, and the teacher's answer."""
    asked = [{"role": each["role"], "content": each["content"]} for each in messages]
    return {"input": asked, "output": completion}


def read_evals(data: bytes) -> dict[str, Any]:
    """The document in `data`. Raises: ArtifactError when it is not one."""
    document = read_json(data, EVALS)
    if not isinstance(document, dict) or set(document) != _KEYS or document["format"] != FORMAT:
        raise ArtifactError(f"{EVALS} is not a {FORMAT} document of inputs, rows and score")
    rows = document["rows"]
    if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
        raise ArtifactError(f"{EVALS}: rows is not a list of rows")
    _check_hashes([row.get("row_hash") for row in rows])
    _check_values(rows, document["inputs"])
    if not all(_is_text(row[_TEXT]) for row in rows if _TEXT in row):
        raise ArtifactError(f"{EVALS}: a row's text is not messages and an answer")
    return document


def holds_text(document: Mapping[str, Any]) -> bool:
    """Whether any row can be read."""
    return any(_TEXT in row for row in document["rows"])


def recompute(document: Mapping[str, Any], shipped_bytes: int) -> KScore:
    """The K-score that the rows give; `shipped_bytes` is what adapter and tokenizer weigh.

    Raises: ArtifactError when rows or inputs are malformed, when the score claimed differs from
    the one they give, or when a smaller size was claimed than is shipped.
    """
    from apprentice_pipeline.evaluate.kscore import EvalRow, ScoreInputs, k_score

    try:
        rows = [EvalRow.from_dict(_measured(row)) for row in document["rows"]]
        inputs = ScoreInputs.from_dict(document["inputs"])
        score = k_score(rows, inputs)
    except ApprenticeError as error:
        raise ArtifactError(f"{EVALS}: {error.message}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(
            f"{EVALS}: rows or inputs are not what K is computed from ({type(error).__name__})"
        ) from None
    if inputs.size_bytes < shipped_bytes:
        raise ArtifactError(
            f"{EVALS} claims a size of {inputs.size_bytes} bytes,"
            f" the artifact ships {shipped_bytes}"
        )
    _check_claim(document["score"], score.to_dict())
    return score


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != _TEXT}


def _is_text(text: Any) -> bool:
    if not isinstance(text, dict) or set(text) != {"input", "output"}:
        return False
    asked = text["input"]
    return (
        isinstance(text["output"], str)
        and isinstance(asked, list)
        and all(isinstance(each, dict) and set(each) == {"role", "content"} for each in asked)
        and all(isinstance(part, str) for each in asked for part in each.values())
    )


def _check_hashes(hashes: list[Any]) -> None:
    if any(not isinstance(value, str) or not _ROW_HASH.fullmatch(value) for value in hashes):
        raise ArtifactError(f"{EVALS}: a row is not named by a keyed hash")
    if len(set(hashes)) != len(hashes):
        raise ArtifactError(f"{EVALS}: a row is counted twice")


def _check_values(rows: list[dict[str, Any]], inputs: Any) -> None:
    """Bounds: what the computation takes, and how long it may take."""
    for row in rows:
        for name, most in _BOUNDS.items():
            value = row.get(name)
            if not _is_number(value) or not 0 <= value <= most:
                raise ArtifactError(f"{EVALS}: a row holds an impossible {name}")
    draws = inputs.get("bootstrap") if isinstance(inputs, dict) else None
    if type(draws) is not int or not 0 <= draws * max(1, len(rows)) <= _MAX_DRAWS:
        raise ArtifactError(f"{EVALS}: inputs ask for an impossible bootstrap")


def _check_claim(claimed: Any, computed: Mapping[str, Any]) -> None:
    if not isinstance(claimed, dict):
        raise ArtifactError(f"{EVALS}: score is not a mapping")
    pairs = [(name, claimed.get(name), computed.get(name)) for name in _COMPARED]
    parts = claimed.get("components")
    for name, value in (computed.get("components") or {}).items():
        pairs.append((name, parts.get(name) if isinstance(parts, dict) else None, value))
    for name, stated, value in pairs:
        if not _agree(stated, value):
            raise ArtifactError(
                f"{EVALS}: {name} is claimed as {_shown(stated)}, its rows give {_shown(value)}"
            )


def _agree(stated: Any, value: Any) -> bool:
    if value is None or stated is None:
        return stated is value
    return _is_number(stated) and math.isclose(stated, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if _is_number(value) else "absent"


def evals_bytes(document: Mapping[str, Any]) -> bytes:
    """The document as canonical JSON. Raises: ArtifactError when it cannot be."""
    return canonical(dict(document))
