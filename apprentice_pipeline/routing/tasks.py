"""A declared task as a request to a model, and its answer as the task's output.

Belongs here: checking an input, the prompt, reading an output. Does not: calls, routing.
Promise: the same task gives the same system prompt, word for word: the local model is only
asked what it was trained on.
"""

from __future__ import annotations

from typing import Any

import orjson

from apprentice_pipeline.config import Task
from apprentice_pipeline.errors import RemoteError, UsageError
from apprentice_pipeline.records import Message
from apprentice_pipeline.verify.answers import NOT_JSON, is_type, json_of, schema_fault, text_of

MOST_ANSWER_TOKENS = 1_024
_MAY_BE_LEFT_OUT = ("dict", "list", "any")


def checked_input(task: Task, value: Any) -> dict[str, Any]:
    """The input as plain JSON values, in the order of the schema.

    Fields of type dict, list and any may be left out. Raises: UsageError naming every field
    that is missing, unknown or of another type, never its value.
    """
    try:
        plain = orjson.loads(orjson.dumps(value))
    except (TypeError, orjson.JSONDecodeError):
        raise UsageError(f"the input of {task.name} holds values that JSON has not") from None
    if not isinstance(plain, dict):
        raise UsageError(f"the input of {task.name} must be an object of its fields")
    faults = [f"{name} is not a field" for name in plain if name not in task.input_schema]
    for name, kind in task.input_schema.items():
        if name not in plain:
            if kind not in _MAY_BE_LEFT_OUT:
                faults.append(f"{name} is missing")
        elif not is_type(plain[name], kind):
            faults.append(f"{name} is not of type {kind}")
    if faults:
        wanted = ", ".join(f"{name}: {kind}" for name, kind in task.input_schema.items())
        raise UsageError(
            f"the input of {task.name} does not fit its schema: {'; '.join(faults)}",
            remedy=f"give {{{wanted}}}",
        )
    return {name: plain[name] for name in task.input_schema if name in plain}


def request_of(task: Task, value: dict[str, Any]) -> dict[str, Any]:
    """The request for a checked input: messages and parameters in normal form."""
    messages: list[Message] = []
    if prompt := system_prompt(task):
        messages.append({"role": "system", "content": prompt})
    messages.append({"role": "user", "content": _user_content(value)})
    return {"messages": messages, "parameters": {"max_completion_tokens": MOST_ANSWER_TOKENS}}


def system_prompt(task: Task) -> str:
    """The task's description and the answer it wants; "" when it declares neither."""
    parts = [task.description.strip()] if task.description.strip() else []
    if task.output_schema:
        fields = ", ".join(f"{name} ({kind})" for name, kind in task.output_schema.items())
        parts.append(f"Answer with one JSON object and nothing else. Its fields: {fields}.")
    return "\n".join(parts)


def output_of(task: Task, output: Any) -> Any:
    """The task's output in a model's answer: the object its schema declares, else the text.

    Raises: RemoteError when the answer does not fit; the message holds nothing of it.
    """
    text = text_of(output)
    if text is None:
        raise RemoteError(f"the answer to {task.name} is not text")
    if not task.output_schema:
        return text
    value = json_of(text)
    fault = "not JSON" if value is NOT_JSON else schema_fault(value, task)
    if fault is not None:
        raise RemoteError(
            f"the answer to {task.name} does not fit its output schema: {fault}",
            remedy="make the description say what each field means, or correct the schema",
        )
    return value


def _user_content(value: dict[str, Any]) -> str:
    given = {name: each for name, each in value.items() if each not in ({}, [], None)}
    if set(given) == {"text"} and isinstance(given["text"], str):
        return given["text"]
    return orjson.dumps(given).decode()
