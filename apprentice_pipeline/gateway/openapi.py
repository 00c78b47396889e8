"""The gateway's own OpenAPI 3.1 document.

Belongs here: from the table of operations, and from the providers that have a wire format, to
the document. Does not: the table (`operations`). Promise: nothing about a route is written here
that its handler does not read from the same place; what passes through to a provider is left
open, for its format is the provider's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter

from apprentice_pipeline import __version__
from apprentice_pipeline.gateway import bodies
from apprentice_pipeline.gateway.headers import KEY, NAMESPACE, PAIR_ID, SERVED_BY
from apprentice_pipeline.gateway.operations import JSON, OPERATIONS, Content, Operation
from apprentice_pipeline.wire.providers import PROVIDERS

CAPTURE_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
_REF = "#/components/schemas/{model}"
_PLACES: dict[str, tuple[str, Any]] = {
    "job_id": ("A distillation's id", str),
    "task": ("A declared task", bodies.Name),
}
_REASONS = {
    200: "Done", 202: "Started", 400: "What was asked for makes no sense", 401: "A key is needed",
    403: "This key may not", 404: "Not there", 409: "Not yet, or not in this state",
    413: "Too large", 422: "Does not verify", 429: "The budget is exhausted",
    502: "The provider failed", 503: "Not ready, or keys cannot be checked; try again",
}  # fmt: skip


@functools.cache
def document() -> bytes:
    """The document as JSON."""
    return orjson.dumps(_document())


def _document() -> dict[str, Any]:
    schemas = _Schemas()
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        path = paths.setdefault(operation.path, {})
        path[operation.method.lower()] = _operation(operation, schemas)
    paths |= _captures()
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Apprentice gateway",
            "version": __version__,
            "description": "Captures pass through to the provider unmodified; the rest is ours.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.made,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": KEY.decode()},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


class _Schemas:
    """The JSON schemas of the models met so far, by name."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def of(self, value: Any, mode: Any) -> Any:
        """The schema of a media type's content (see `operations.Content`)."""
        if isinstance(value, tuple):
            return {"allOf": [self.of(each, mode) for each in value]}
        if isinstance(value, dict):
            return value
        schema = TypeAdapter(value).json_schema(mode=mode, ref_template=_REF)
        for name, part in schema.pop("$defs", {}).items():
            self._keep(name, part)
        name = schema.get("title")
        if name is None or "properties" not in schema:
            return schema
        self._keep(name, schema)
        return {"$ref": _REF.format(model=name)}

    def _keep(self, name: str, schema: Any) -> None:
        assert self.made.setdefault(name, schema) == schema, f"two models are named {name}"

    def content(self, content: Content, mode: str) -> dict[str, Any]:
        """A `content` object."""
        return {kind: {"schema": self.of(value, mode)} for kind, value in content.items()}


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.query)],
        "responses": _responses(operation, schemas),
        "security": [{"key": []}, {"bearer": []}] if operation.roles else [],
    }
    if operation.roles:
        made["description"] = f"Needs a key of the role {' or '.join(operation.roles)}."
    if operation.body:
        content = schemas.content(operation.body, "validation")
        made["requestBody"] = {"required": True, "content": content}
    return made


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    always = (401, 403, 503) if operation.roles else ()
    failure = {JSON: bodies.Failure}
    contents: dict[int, Content] = dict.fromkeys((*operation.refusals, *always), failure)
    contents |= operation.answers
    found: dict[str, Any] = {}
    for status, content in sorted(contents.items()):
        described = {"description": _REASONS[status]}
        found[str(status)] = {**described, "content": schemas.content(content, "serialization")}
        if status < 300 and operation.headers:
            found[str(status)]["headers"] = {name: _text_header() for name in operation.headers}
    return found


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for part in path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}")
            described, kind = _PLACES[name]
            schema = TypeAdapter(kind).json_schema()
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "description": described,
                "schema": schema,
            }


def _query_parameters(model: type[BaseModel] | None) -> Iterator[dict[str, Any]]:
    if model is None:
        return
    schema = model.model_json_schema(mode="validation")
    for name, value in schema["properties"].items():
        required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": required, "schema": _present(value)}


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without the null that an absent parameter has in Python."""
    kept = {name: value for name, value in schema.items() if name not in {"anyOf", "title"}}
    if kept.get("default", "") is None:
        del kept["default"]
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **kept}
    return {**kept, "anyOf": choices} if choices else kept


def _captures() -> dict[str, Any]:
    """The pass-through: any path and method below a provider's name."""
    provider = {
        "name": "provider",
        "in": "path",
        "required": True,
        "schema": {"enum": list(PROVIDERS)},
    }
    path = {
        "name": "path",
        "in": "path",
        "required": True,
        "description": "The provider's own path; it may hold slashes.",
        "schema": {"type": "string", "minLength": 1},
    }
    return {
        "/v1/capture/{provider}": {"post": _capture("capture", [provider])},
        "/v1/capture/{provider}/{path}": {
            method: _capture(f"capture_{method}", [provider, path]) for method in CAPTURE_METHODS
        },
    }


def _capture(name: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    namespace = {"name": NAMESPACE.decode(), "in": "header", "schema": _named_or_empty()}
    described = "The provider's own answer, or an error of ours in the provider's own shape."
    headers = {name.decode(): _text_header() for name in (PAIR_ID, SERVED_BY)}
    answer = {"description": described, "headers": headers, "content": {"*/*": {}}}
    made: dict[str, Any] = {
        "operationId": name,
        "summary": "Pass a call through to the provider, and capture what is captured",
        "parameters": [*parameters, namespace],
        "responses": {"default": answer},
        "security": [{"key": []}, {"bearer": []}, {}],
    }
    if name.endswith(("capture", "post", "put", "patch")):
        made["requestBody"] = {"content": {JSON: {}}}
    return made


def _named_or_empty() -> dict[str, Any]:
    return {"anyOf": [TypeAdapter(bodies.Name).json_schema(), {"const": ""}]}


def _text_header() -> dict[str, Any]:
    return {"schema": {"type": "string"}}
