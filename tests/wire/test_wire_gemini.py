"""Gemini's wire format: addresses and requests, both directions."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.wire import gemini
from apprentice_pipeline.wire.conversation import prompt_messages, request_facts
from apprentice_pipeline.wire.forms import WireRequest
from apprentice_pipeline.wire.outputs import function_call

ASK = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"


def read(body: Any, target: str = ASK) -> WireRequest:
    return gemini.read_request("generateContent", orjson.dumps(body), target)


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/v1beta", "/v1", "/v1alpha", ""])
@pytest.mark.parametrize("call", ["generateContent", "streamGenerateContent"])
def test_a_model_may_be_asked_with_or_without_a_version(prefix: str, call: str) -> None:
    path = f"{prefix}/models/gemini-2.5-flash:{call}"
    assert gemini.endpoint_of(path) == "generateContent"
    assert gemini.upstream_path(path) == f"{prefix or '/v1beta'}/models/gemini-2.5-flash:{call}"


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/models/gemini-2.5-flash:countTokens",
        "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
        "/v1beta/models",
        "/v1beta/files",
        "/upload/v1beta/files",
        "/v1beta/openai/chat/completions",
        "/v1beta/models/gemini-2.5-flash:generateContent/more",
    ],
)
def test_other_paths_are_passed_on_uncaptured(path: str) -> None:
    assert gemini.endpoint_of(path) is None
    assert gemini.upstream_path(path) == path


@pytest.mark.parametrize("path", ["", "/", "/v1beta", "/v1/"])
def test_a_bare_path_is_refused_with_the_way_to_name_a_model(path: str) -> None:
    with pytest.raises(WireError, match="names no model") as refused:
        gemini.upstream_path(path)
    assert "models/MODEL:generateContent" in refused.value.remedy


def test_the_address_says_the_model_and_the_way_to_stream() -> None:
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    asked = [read(body, t) for t in (ASK, STREAM, STREAM + "?key=k&alt=sse", ASK + "?alt=json")]
    assert {each.model for each in asked} == {"gemini-2.5-flash"}
    assert [(each.streamed, each.as_array) for each in asked] == [
        (False, False),
        (True, True),
        (True, False),
        (False, False),
    ]
    assert all(each.input == asked[0].input for each in asked)
    assert read(body, "/v1beta/models/gemini-2.5-flash%3AgenerateContent").model
    assert read(body, "/v1beta/tunedModels/mine:generateContent").model == "tunedModels/mine"
    assert gemini.call_path("tunedModels/mine") == "/v1beta/tunedModels/mine:generateContent"


def test_a_streamed_request_can_be_asked_unstreamed() -> None:
    assert gemini.unstreamed(STREAM + "?alt=sse", b"{}") == (ASK, b"{}")
    assert gemini.unstreamed(STREAM + "?key=k&alt=sse&x=1", b"{}") == (ASK + "?key=k&x=1", b"{}")
    assert gemini.unstreamed(ASK, b"{}") == (ASK, b"{}")


# --- requests ---------------------------------------------------------------------------------

WHOLE = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "What is on it?"},
                {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                {"fileData": {"mimeType": "video/mp4", "fileUri": "https://x/files/1"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "I look it up.", "thoughtSignature": "c2ln"},
                {"functionCall": {"id": "f1", "name": "look", "args": {"q": 1}}},
                {"functionCall": {"name": "look", "args": {}}, "thoughtSignature": "c2lo"},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "f1", "name": "look", "response": {"a": [1, "é"]}}},
                {"functionResponse": {"name": "look", "response": {"b": None}}},
            ],
        },
    ],
    "generationConfig": {
        "temperature": 0.2,
        "topP": 0.9,
        "maxOutputTokens": 300,
        "candidateCount": 1,
        "stopSequences": ["END"],
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"a_b": {"type": "STRING"}}},
        "thinkingConfig": {"thinkingBudget": 0},
    },
    "tools": [{"functionDeclarations": [{"name": "look"}]}, {"googleSearch": {}}],
    "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
}


def test_a_request_is_kept_whole() -> None:
    asked = read(WHOLE)
    system, first, called, *answers = asked.input["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert first["content"][1] == {"type": "inlineData", **WHOLE["contents"][0]["parts"][1]}  # type: ignore[index]
    assert called["role"] == "assistant"
    assert [call["function"]["arguments"] for call in called["tool_calls"]] == ['{"q":1}', "{}"]
    assert [each["tool_call_id"] for each in answers] == ["f1", ""]
    assert orjson.loads(answers[0]["content"]) == {"a": [1, "é"]}
    parameters = asked.input["parameters"]
    assert (parameters["max_output_tokens"], parameters["n"], parameters["top_p"]) == (300, 1, 0.9)
    assert asked.max_output_tokens == 300
    assert parameters["tools"] == WHOLE["tools"]


def test_a_request_written_from_what_was_read_says_the_same() -> None:
    asked = read(WHOLE)
    written = gemini.write_request("m", asked.input["messages"], asked.input["parameters"])
    assert orjson.loads(written) == WHOLE


def test_names_may_be_in_either_case() -> None:
    snake = {
        "system_instruction": {"parts": {"text": "Be brief."}},
        "contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "aa=="}}]}],
        "generation_config": {"max_output_tokens": 5, "response_mime_type": "text/plain"},
        "safety_settings": [],
        "tools": [{"function_declarations": [{"name": "f", "parameters": {"any_of": []}}]}],
    }
    asked = read(snake)
    assert asked.input["messages"][0] == {"role": "system", "content": "Be brief."}
    (image,) = asked.input["messages"][1]["content"]
    assert image == {"type": "inlineData", "inlineData": {"mimeType": "image/png", "data": "aa=="}}
    (declared,) = asked.input["parameters"]["tools"][0]["functionDeclarations"]
    assert declared["parameters"] == {"any_of": []}  # a schema stays as it came
    assert asked.max_output_tokens == 5
    assert "safetySettings" in asked.input["parameters"]


def test_a_plain_conversation_is_fit_for_training_and_local_answers() -> None:
    body = {
        "systemInstruction": {"role": "system", "parts": [{"text": "Classify."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "one"}]},
            {"role": "model", "parts": [{"text": "two"}]},
            {"role": "user", "parts": [{"text": "three"}]},
        ],
        "generationConfig": {"maxOutputTokens": 9, "thinkingConfig": {"thinkingBudget": 0}},
    }
    asked = read(body)
    assert prompt_messages(asked.input) == [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    facts = request_facts(asked.input)
    assert facts.unsupported == ()
    assert (facts.n, facts.max_output_tokens, facts.uses_tools) == (1, 9, False)


@pytest.mark.parametrize(
    ("settings_", "need"),
    [
        ({"thinkingConfig": {"includeThoughts": True}}, ("thinking",)),
        ({"responseModalities": ["IMAGE"]}, ("responseModalities",)),
        ({"speechConfig": {"voice": "x"}}, ("speechConfig",)),
        ({"responseModalities": ["TEXT"], "topK": 3}, ()),
    ],
)
def test_what_only_gemini_can_do_is_a_need(settings_: Any, need: Any) -> None:
    asked = read({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": settings_})
    assert request_facts(asked.input).unsupported == need


def test_the_response_format_is_a_need() -> None:
    def asked(**config: Any) -> str | None:
        body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}
        return request_facts(read(body).input).response_format

    assert asked() is None
    assert asked(responseMimeType="text/plain") is None
    assert asked(responseMimeType="application/json") == "json_object"
    assert asked(responseMimeType="application/json", responseSchema={"type": "X"}) == "json_schema"
    assert asked(responseMimeType="text/x.enum") == "text/x.enum"


def test_what_others_captured_can_be_asked_of_gemini() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/gif", "data": "BBBB"},
                },
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [function_call("c1", "look", "{}")]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    parameters = {
        "max_tokens": 7,
        "stop": "END",
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "x"}}}],
        "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        "metadata": {"left": "out"},
    }
    said = orjson.loads(gemini.write_request("m", messages, parameters))
    assert said["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert [
        part.get("inlineData") or part.get("fileData") for part in said["contents"][0]["parts"]
    ] == [
        None,
        {"mimeType": "image/png", "data": "AAAA"},
        {"fileUri": "https://x/y.png"},
        {"mimeType": "image/gif", "data": "BBBB"},
    ]
    assert said["contents"][2]["parts"] == [
        {"functionResponse": {"id": "c1", "name": "look", "response": {"result": 42}}}
    ]
    assert said["generationConfig"] == {
        "maxOutputTokens": 7,
        "stopSequences": ["END"],
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }
    assert said["tools"][0]["functionDeclarations"][0]["name"] == "look"
    assert said["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert "metadata" not in said


def test_content_without_a_gemini_form_is_refused() -> None:
    with pytest.raises(WireError, match="no form for"):
        gemini.write_request("m", [{"role": "user", "content": [{"type": "odd"}]}], {})
