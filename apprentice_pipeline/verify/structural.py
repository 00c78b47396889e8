"""Structural faults: answers that no model should learn, found without asking anyone.

Belongs here: empty, cut off by length, refusals, malformed or absurdly long answers.
Does not: whether an answer is right (`verify.verification`).
A fault is named in our words and the configuration's, never in the customer's.
"""

from __future__ import annotations

import re
from typing import Any, Final

from apprentice_pipeline.config import Task
from apprentice_pipeline.records import Pair
from apprentice_pipeline.verify import answers
from apprentice_pipeline.wire.outputs import blocks_of, calls_of, refusal_of

EMPTY: Final = "empty answer"
CUT: Final = "cut off by its length limit"
REFUSED: Final = "refusal"
TOO_LONG: Final = "absurdly long answer"
NOT_JSON: Final = "not JSON"
MISSHAPEN: Final = "lacks fields that the stream's other answers have"

_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_CUT_REASONS: Final = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete"})
_REFUSAL_CHARS: Final = 600
_REFUSAL: Final = re.compile(
    r"(?:(?:i['’]?m|i am) (?:really |very |so )?sorry[,.;:]? (?:but )?|sorry[,.]? (?:but )?"
    r"|unfortunately,? |apologies,? (?:but )?|i apologi[sz]e,? (?:but )?)?"
    r"(?:i (?:can['’]?t|cannot|can not|won['’]?t|will not|must decline)"
    r"|i(?:['’]m| am) (?:not able|unable) to|as an ai\b)"
    r"[^.!?]{0,60}?(?:help|assist|comply|fulfil|provide|do that|continue|engage|answer|support"
    r"|generate|create|share|discuss|decline)",
    re.IGNORECASE,
)


def fault(pair: Pair, task: Task | None, shape: answers.AnswerShape | None = None) -> str | None:
    """The pair's structural fault in words fit for a record, None when it has none.

    `shape` is what the stream's answers share (`answers.shape_of`); without it an undeclared
    stream is judged as text.
    """
    output = pair.output
    if _is_empty(output):
        return EMPTY
    if _is_cut(pair):
        return CUT
    text = answers.text_of(output)
    if refusal_of(output) is not None or (text is not None and is_refusal(text)):
        return REFUSED
    if text is not None and shape is not None and len(text) > shape.max_chars:
        return TOO_LONG
    return _json_fault(output, text, task, shape)


def is_refusal(text: str) -> bool:
    """Whether a short text opens as a refusal (English wording, kept narrow on purpose)."""
    opening = text.strip()
    return len(opening) <= _REFUSAL_CHARS and _REFUSAL.match(opening) is not None


def _is_empty(output: Any) -> bool:
    if isinstance(output, str):
        return not output.strip()
    if not output:
        return True
    if not isinstance(output, dict):
        return False
    text = answers.text_of(output)
    said = bool(text and text.strip()) or any(
        block.get("type") != "text" for block in blocks_of(output)
    )
    return not said and not calls_of(output)


def _is_cut(pair: Pair) -> bool:
    """A stop reason where the output carries one, else exactly as many tokens as were allowed."""
    if isinstance(pair.output, dict) and pair.output.get("finish_reason") in _CUT_REASONS:
        return True
    parameters = pair.input.get("parameters")
    if not isinstance(parameters, dict) or pair.output_tokens is None:
        return False
    limits = [parameters[name] for name in _LIMITS if isinstance(parameters.get(name), int)]
    if not limits or pair.usage_source == "estimated":
        return False
    return bool(pair.output_tokens >= min(limits))


def _json_fault(
    output: Any, text: str | None, task: Task | None, shape: answers.AnswerShape | None
) -> str | None:
    declared = task is not None and bool(task.output_schema)
    if not declared and (shape is None or not shape.json):
        return None
    value = answers.json_of(output)
    if text is None or value is answers.NOT_JSON:
        return NOT_JSON
    if task is not None and declared:
        return answers.schema_fault(value, task)
    return None if shape is None or answers.has_shape(value, shape) else MISSHAPEN
