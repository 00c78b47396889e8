"""What an answer says, read from its normal form: its text, or the JSON it holds.

Belongs here: reading JSON out of an answer, comparing JSON values, the shape that a stream of
answers has in common. Does not: judging agreement (`verify.evaluators`) or faults
(`verify.structural`). Pure; nothing here keeps or reports content.
"""

from __future__ import annotations

import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from apprentice_pipeline.config import Task
from apprentice_pipeline.wire.conversation import answer_text

JSON_SHARE: Final = 0.95
"""A stream answers JSON when at least this share of its answers parses."""

LEAST_MAX_CHARS: Final = 4_000
_LONGER_THAN_MEDIAN: Final = 20
_MOST_CHARS: Final = 1_000_000


class _NotJson:
    """Type of the one value that stands for "this answer is not JSON"."""

    __slots__ = ()


NOT_JSON: Final = _NotJson()
"""Returned by `json_of` where there is no JSON (None is a JSON value)."""


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What the answers of a stream have in common.

    `fields` maps each field that `JSON_SHARE` of the JSON objects have to the JSON types seen
    in it. `max_chars` is the length beyond which an answer is absurd for this stream.
    """

    json: bool
    fields: Mapping[str, frozenset[str]]
    max_chars: int


def text_of(output: Any) -> str | None:
    """The answer's text; None where it is more than text (tool calls, images)."""
    return output if isinstance(output, str) else answer_text(output)


def json_of(output: Any) -> Any:
    """The JSON value that an answer's text holds, a Markdown code fence around it allowed.

    `NOT_JSON` when the answer has no text, or its text is not one JSON value.
    """
    text = text_of(output)
    if text is None:
        return NOT_JSON
    try:
        return orjson.loads(_unfenced(text))
    except orjson.JSONDecodeError:
        return NOT_JSON


def same_json(left: Any, right: Any) -> bool:
    """Whether two JSON values agree.

    Objects regardless of key order, lists in order, numbers by value (1 equals 1.0, true equals
    no number), strings after NFC and outer whitespace. Any depth, without recursion.
    """
    todo = [(left, right)]
    while todo:
        a, b = todo.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            todo.extend((a[key], b[key]) for key in a)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            todo.extend(zip(a, b, strict=True))
        elif not _same_scalar(a, b):
            return False
    return True


def same_text(left: str, right: str) -> bool:
    """Whether two texts agree after NFC and outer whitespace."""
    return plain(left) == plain(right)


def plain(text: str) -> str:
    """NFC, without outer whitespace."""
    return unicodedata.normalize("NFC", text).strip()


def type_of(value: Any) -> str:
    """The JSON type of a value in the configuration's words: str, int, float, bool, dict, list.

    null is `null`.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    names: dict[type, str] = {str: "str", int: "int", float: "float", dict: "dict", list: "list"}
    return names[type(value)]


def is_type(value: Any, wanted: str) -> bool:
    """Whether a JSON value has a type of the configuration; every int is a float, too."""
    found = type_of(value)
    return wanted in ("any", found) or (wanted == "float" and found == "int")


def shape_of(outputs: Iterable[Any]) -> AnswerShape:
    """The common shape of a stream's answers; an empty stream is text of ordinary length."""
    total, parsed, objects = 0, 0, 0
    seen: Counter[str] = Counter()
    types: dict[str, set[str]] = {}
    lengths: list[int] = []
    for output in outputs:
        total += 1
        lengths.append(len(text_of(output) or ""))
        value = json_of(output)
        parsed += isinstance(value, dict | list)
        if isinstance(value, dict):
            objects += 1
            seen.update(value.keys())
            for key, item in value.items():
                types.setdefault(key, set()).add(type_of(item))
    is_json = total > 0 and parsed >= JSON_SHARE * total
    common = (key for key, n in seen.items() if is_json and n >= JSON_SHARE * total)
    return AnswerShape(
        json=is_json,
        fields={key: frozenset(types[key]) for key in sorted(common)},
        max_chars=_max_chars(lengths),
    )


def has_shape(value: Any, shape: AnswerShape) -> bool:
    """Whether a JSON value has the fields that a stream's answers share, with their types."""
    if not shape.fields:
        return isinstance(value, dict | list)
    return isinstance(value, dict) and all(
        name in value and _fits(value[name], types) for name, types in shape.fields.items()
    )


def schema_fault(value: Any, task: Task) -> str | None:
    """What of the task's `output_schema` a JSON value misses; None when nothing."""
    if not isinstance(value, dict):
        return "not a JSON object"
    for name, wanted in task.output_schema.items():
        if name not in value:
            return f"field {name} is missing"
        if not is_type(value[name], wanted):
            return f"field {name} is not of type {wanted}"
    return None


def _fits(value: Any, types: frozenset[str]) -> bool:
    return any(is_type(value, wanted) for wanted in types)


def _max_chars(lengths: list[int]) -> int:
    if not lengths:
        return _MOST_CHARS
    usual = int(statistics.median(lengths)) * _LONGER_THAN_MEDIAN
    return min(_MOST_CHARS, max(LEAST_MAX_CHARS, usual))


def _unfenced(text: str) -> str:
    body = text.strip()
    if not (body.startswith("```") and body.endswith("```") and "\n" in body):
        return body
    return body.split("\n", 1)[1].removesuffix("```")


def _same_scalar(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, str) and isinstance(b, str):
        return same_text(a, b)
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return bool(a == b) and (numbers or type(a) is type(b))
