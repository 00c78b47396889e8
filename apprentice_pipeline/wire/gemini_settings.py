"""What a Gemini request asks besides its contents, as parameters, both directions.

Belongs here: `generationConfig`, tools and tool choice, by the names that providers share.
Does not: contents (`gemini_parts`), addresses (`gemini`). What only Gemini has keeps its name
and form, so that a request written from its own parameters says the same again.
"""

from __future__ import annotations

from typing import Any, Final

from apprentice_pipeline.wire.forms import as_list, as_object, as_text, without

_SHARED: Final = {
    "candidateCount": "n",
    "frequencyPenalty": "frequency_penalty",
    "logprobs": "top_logprobs",
    "maxOutputTokens": "max_output_tokens",
    "presencePenalty": "presence_penalty",
    "responseLogprobs": "logprobs",
    "seed": "seed",
    "stopSequences": "stop_sequences",
    "temperature": "temperature",
    "topK": "top_k",
    "topP": "top_p",
}
_OWN: Final = frozenset({"cachedContent", "labels", "safetySettings", "serviceTier", "store"})
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_MODES: Final = {"auto": "AUTO", "any": "ANY", "required": "ANY", "none": "NONE"}


def read_settings(document: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request without its contents."""
    config = as_object(document.get("generationConfig"))
    parameters = without(document, "generationConfig")
    parameters |= {_SHARED[name]: value for name, value in config.items() if name in _SHARED}
    rest = without(config, *_SHARED)
    return {**parameters, "generationConfig": rest} if rest else parameters


def write_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """The members of a request that carry parameters; what Gemini does not know is left out."""
    said: dict[str, Any] = {name: parameters[name] for name in _OWN if name in parameters}
    if config := _config(parameters):
        said["generationConfig"] = config
    if tools := [_tool(as_object(tool)) for tool in as_list(parameters.get("tools"))]:
        said["tools"] = tools
    choice = parameters.get("toolConfig") or _tool_config(parameters.get("tool_choice"))
    return {**said, "toolConfig": choice} if choice else said


def _config(parameters: dict[str, Any]) -> dict[str, Any]:
    config = dict(as_object(parameters.get("generationConfig")))
    config |= _format(parameters.get("response_format"))
    config |= {name: parameters[as_] for name, as_ in _SHARED.items() if as_ in parameters}
    for name in _LIMITS:
        if parameters.get(name) is not None:
            config.setdefault("maxOutputTokens", parameters[name])
    if stop := parameters.get("stop"):
        config.setdefault("stopSequences", [stop] if isinstance(stop, str) else stop)
    return config


def _format(asked: Any) -> dict[str, Any]:
    """OpenAI's `response_format` in Gemini's words."""
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind == "json_schema":
        schema = as_object(asked.get("json_schema")).get("schema")
        return {"responseMimeType": "application/json", "responseJsonSchema": schema}
    return {}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as Gemini declares it: its own as they are, others' functions renamed."""
    function = tool.get("function") if tool.get("type") == "function" else tool
    said = as_object(function)
    if "name" not in said:
        return tool
    schema = said.get("parameters", said.get("input_schema"))
    declared = {"name": as_text(said["name"]), "description": as_text(said.get("description"))}
    if schema:
        declared["parametersJsonSchema"] = schema
    return {"functionDeclarations": [declared]}


def _tool_config(choice: Any) -> dict[str, Any]:
    """OpenAI's or Anthropic's `tool_choice` in Gemini's words."""
    named = as_object(choice) if isinstance(choice, dict) else {"type": choice}
    function = as_object(named.get("function")).get("name") or named.get("name")
    if function:
        said: dict[str, Any] = {"mode": "ANY", "allowedFunctionNames": [function]}
    elif mode := _MODES.get(str(named.get("type"))):
        said = {"mode": mode}
    else:
        return {}
    return {"functionCallingConfig": said}
