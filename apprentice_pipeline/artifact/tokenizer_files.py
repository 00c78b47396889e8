"""The files under `tokenizer/` against closed schemas: data for a tokenizer, no code, no paths.

Belongs here: which files, which keys, which component types. Does not: tokenizing.
Promise: files that pass make a stock tokenizer class read its own data and nothing else; the
chat template stands in its own file and has been tried (`chat_template`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apprentice_pipeline.artifact.adapter_config import first_fault
from apprentice_pipeline.artifact.canonical import read_json
from apprentice_pipeline.artifact.chat_template import check_chat_template
from apprentice_pipeline.artifact.members import (
    CHAT_TEMPLATE,
    MEMBERS,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from apprentice_pipeline.errors import ArtifactError

Text = Annotated[str, Field(max_length=1024)]
TokenizerClass = Literal[
    "TokenizersBackend",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerFast",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTNeoXTokenizer",
    "GPTNeoXTokenizerFast",
]
_COMPONENTS = {
    "normalizer": "Sequence NFC NFD NFKC NFKD Lowercase Replace Prepend Strip StripAccents"
    " BertNormalizer Nmt Precompiled ByteLevel",
    "pre_tokenizer": "Sequence ByteLevel Split Metaspace Whitespace WhitespaceSplit Digits"
    " Punctuation BertPreTokenizer CharDelimiterSplit UnicodeScripts FixedLength",
    "post_processor": "Sequence ByteLevel TemplateProcessing BertProcessing RobertaProcessing",
    "decoder": "Sequence ByteLevel ByteFallback Replace Fuse Strip Metaspace WordPiece"
    " BPEDecoder CTC",
    "model": "BPE WordPiece WordLevel Unigram",
}
_TOP_LEVEL = {"version", "truncation", "padding", "added_tokens", *_COMPONENTS}


class AddedToken(BaseModel):
    """A special token with its matching rules."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    content: Text
    id: int | None = Field(default=None, ge=0)
    lstrip: bool = False
    normalized: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = True
    type: Literal["AddedToken"] | None = Field(default=None, alias="__type")


Token = Text | AddedToken | None
Schema = TypeVar("Schema", bound=BaseModel)


class SpecialTokens(BaseModel):
    """`special_tokens_map.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bos_token: Token = None
    eos_token: Token = None
    unk_token: Token = None
    pad_token: Token = None
    sep_token: Token = None
    cls_token: Token = None
    mask_token: Token = None
    additional_special_tokens: list[Token] | None = None
    extra_special_tokens: list[Token] | dict[Text, Token] | None = None


class TokenizerConfig(SpecialTokens):
    """`tokenizer_config.json`: no `auto_map`, no name of a file, no class outside the list."""

    tokenizer_class: TokenizerClass
    backend: Literal["tokenizers"] | None = None
    model_max_length: Annotated[float, Field(ge=1)] | None = None
    padding_side: Literal["left", "right"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    split_special_tokens: bool | None = None
    legacy: bool | None = None
    use_default_system_prompt: bool | None = None
    errors: Literal["replace", "strict", "ignore"] | None = None
    model_input_names: Annotated[list[Text], Field(max_length=16)] | None = None
    added_tokens_decoder: dict[str, AddedToken] | None = None


_MACHINE_KEYS = frozenset(
    {"name_or_path", "is_local", "local_files_only", "special_tokens_map_file"}
)
_IDLE_KEYS = frozenset(
    {
        "audio_token",
        "boi_token",
        "eoi_token",
        "image_token",
        "processor_class",
        "sp_model_kwargs",
        "spaces_between_special_tokens",
        "vocab_size",
    }
)
"""What families of models write besides, and text through `tokenizer.json` never needs."""


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """The tokenizer's members by their name in the artifact, from a folder it was saved to.

    Keys that tell where the files lay, or that text never needs, are left out; a template inside
    the configuration moves to its own file.
    Raises: ArtifactError when a file is missing, cannot be read or is refused.
    """
    members = {}
    for name in (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, CHAT_TEMPLATE):
        file = folder / Path(name).name
        try:
            members[name] = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}") from None
    if TOKENIZER_CONFIG in members:
        config = read_json(members[TOKENIZER_CONFIG], TOKENIZER_CONFIG)
        if not isinstance(config, dict):
            raise ArtifactError(f"{TOKENIZER_CONFIG} is not a mapping")
        template = config.pop("chat_template", None)
        if isinstance(template, str):
            members.setdefault(CHAT_TEMPLATE, template.encode())
        dropped = _MACHINE_KEYS | _IDLE_KEYS
        kept = {key: value for key, value in config.items() if key not in dropped}
        members[TOKENIZER_CONFIG] = json.dumps(kept, indent=1, sort_keys=True).encode()
    check_tokenizer(members)
    return members


def check_tokenizer(members: Mapping[str, bytes]) -> TokenizerConfig:
    """Checks every tokenizer file in `members`.

    Raises: ArtifactError naming the file, and the key or component that is not allowed.
    """
    for name in (TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE):
        if name not in members:
            raise ArtifactError(f"member {name} is missing")
    for name in (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, CHAT_TEMPLATE):
        if len(members.get(name, b"")) > MEMBERS[name]:
            raise ArtifactError(f"member {name!r} has more than {MEMBERS[name]} bytes")
    _check_tokenizer_json(members[TOKENIZER])
    config = _validated(TokenizerConfig, members[TOKENIZER_CONFIG], TOKENIZER_CONFIG)
    if SPECIAL_TOKENS in members:
        _validated(SpecialTokens, members[SPECIAL_TOKENS], SPECIAL_TOKENS)
    check_chat_template(members[CHAT_TEMPLATE], _template_variables(config))
    return config


def _template_variables(config: SpecialTokens) -> dict[str, str]:
    """The special tokens that a template may name, as the libraries pass them."""
    variables = {}
    for name in SpecialTokens.model_fields:
        token = getattr(config, name)
        if isinstance(token, (str, AddedToken)):
            variables[name] = token if isinstance(token, str) else token.content
    return variables


def _validated(schema: type[Schema], data: bytes, name: str) -> Schema:
    try:
        return schema.model_validate(read_json(data, name))
    except ValidationError as error:
        raise ArtifactError(f"{name}: {first_fault(error)}") from None


def _check_tokenizer_json(data: bytes) -> None:
    document = read_json(data, TOKENIZER)
    if not isinstance(document, dict):
        raise ArtifactError(f"{TOKENIZER} is not a mapping")
    if unknown := sorted(set(document) - _TOP_LEVEL):
        raise ArtifactError(f"{TOKENIZER}: the key {unknown[0][:80]} is not allowed")
    if not isinstance(document.get("model"), dict):
        raise ArtifactError(f"{TOKENIZER} holds no model")
    for part, types in _COMPONENTS.items():
        _check_component(part, document.get(part), frozenset(types.split()))


def _check_component(part: str, component: Any, types: frozenset[str]) -> None:
    """Walks a component and the members of its sequences; nesting is bounded by the parser."""
    if component is None:
        return
    if not isinstance(component, dict):
        raise ArtifactError(f"{TOKENIZER}: {part} is not a mapping")
    kind = component.get("type", "BPE" if part == "model" else None)
    if kind not in types:
        raise ArtifactError(f"{TOKENIZER}: {part} is of a type that is not allowed")
    if kind == "Sequence":
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            for inner in component.get(key, ()):
                _check_component(part, inner, types)
