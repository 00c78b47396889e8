"""Plain JSON lines: our own label rows and export styles, and the forms people write by hand.

    {"input": text | messages | {"messages", "parameters"}, "output": …}
    {"messages": […], "output" | "completion": …}   or the answer as the last message
    {"prompt": text | messages, "completion": text | messages}
    {"conversations": [{"from", "value"}, …]}

with `model`, `provider`, `created_at`, `latency_us`, `input_tokens`, `output_tokens`, `cost_usd`
where they are known.
"""

from __future__ import annotations

from typing import Any, Final

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Usage
from apprentice_pipeline.wire.forms import WireResponse, as_list, as_object, as_text, reads
from apprentice_pipeline.wire.imports.calls import (
    PastCall,
    bare_model,
    endpoint_name,
    is_fit,
    provider_name,
)
from apprentice_pipeline.wire.imports.conversations import loose_answer, loose_input
from apprentice_pipeline.wire.imports.values import (
    first_of,
    json_value,
    moment_us,
    real,
    text_or_empty,
    tokens,
)

_SPEAKERS: Final = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
                    "system": "system"}  # fmt: skip
_TOOLS: Final = ("tools", "functions", "parallel_tool_calls")


@reads
def read(record: dict[str, Any]) -> list[PastCall]:
    """The call of a record. Raises: WireError."""
    given, answer = _turns(record)
    if answer in (None, "", [], {}):
        raise WireError("the answer is empty")
    if not is_fit(WireResponse(answer, Usage(), "", None)):
        return []
    if any("role" not in message and "type" not in message for message in given["messages"]):
        raise WireError("a message has no role")
    model = text_or_empty(record.get("model"))
    provider = provider_name(record.get("provider"), model)
    return [
        PastCall(
            input=given,
            output=answer,
            provider=provider,
            endpoint=endpoint_name(provider),
            model=bare_model(model, provider),
            created_at_us=moment_us(first_of(record, "created_at", "timestamp", "created")),
            latency_us=tokens(record.get("latency_us")) or 0,
            usage=_usage(record),
            cost_usd=real(record.get("cost_usd")),
            inclusion_probability=_probability(record.get("inclusion_probability")),
            record_id=text_or_empty(first_of(record, "pair_id", "id")),
        )
    ]


def _turns(record: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Input and answer, whichever form the record has."""
    if "conversations" in record:
        return _from_messages([_spoken(turn) for turn in as_list(record["conversations"])], record)
    if "prompt" in record and "completion" in record:
        return _from_prompt(record["prompt"], record["completion"], record)
    if "input" in record and "output" in record:
        return _input(record["input"]), _own_answer(record["output"])
    if "messages" in record:
        said = first_of(record, "output", "completion", "response", "answer")
        if said is None:
            return _from_messages(as_list(record["messages"]), record)
        return _from_prompt(as_list(record["messages"]), said, record)
    raise WireError("neither input and output, messages, nor prompt and completion")


def _input(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and "messages" in value:
        messages = [as_object(message) for message in as_list(value["messages"])]
        if not messages:
            raise WireError("the input holds no message")
        return {"messages": messages, "parameters": as_object(value.get("parameters"))}
    return loose_input(json_value(value))


def _own_answer(value: Any) -> Any:
    """An answer as our label rows write it, or any other; a corrected answer is any JSON."""
    if isinstance(value, dict) and "choices" in value:
        return loose_answer(value).output
    if isinstance(value, dict) and "role" in value:
        return loose_answer(value).output
    if not isinstance(value, str | dict | list):
        raise WireError("the answer is neither text nor blocks")
    return value


def _from_prompt(
    prompt: Any, completion: Any, record: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    if not isinstance(prompt, str | list) or not isinstance(completion, str | list | dict):
        raise WireError("prompt or completion is neither text nor messages")
    return loose_input(prompt, _tools(record)), loose_answer(completion).output


def _from_messages(messages: list[Any], record: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    *before, last = messages
    if as_object(last).get("role") != "assistant":
        raise WireError("the last message is not the assistant's")
    return _from_prompt(before, last, record)


def _tools(record: dict[str, Any]) -> dict[str, Any]:
    return {name: json_value(record[name]) for name in _TOOLS if record.get(name)}


def _spoken(turn: Any) -> dict[str, Any]:
    said = as_object(turn)
    return {"role": _SPEAKERS[as_text(said["from"])], "content": as_text(said["value"])}


def _usage(record: dict[str, Any]) -> Usage:
    made = tokens(record.get("input_tokens")), tokens(record.get("output_tokens"))
    if made == (None, None):
        return Usage()
    source = record.get("usage_source")
    known = source if source in {"provider", "estimated"} else "provider"
    return Usage(made[0], made[1], None, None, known)


def _probability(value: Any) -> float:
    number = real(value)
    return number if number is not None and 0 < number <= 1 else 1.0
