"""`adapter/adapter_config.json` against a closed schema: plain LoRA and nothing else.

Belongs here: what PEFT may be told. Does not: training. Promise: a configuration that passes
names no path, no code, no initialiser that reads files and no weights outside the adapter.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from apprentice_pipeline.artifact.canonical import canonical, read_canonical, read_json
from apprentice_pipeline.errors import ArtifactError

WHAT = "adapter/adapter_config.json"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+@=, -]*"
BASE_NAME = rf"{_PART}(/{_PART})?(:{_PART})?"
"""A folder's own name, `owner/name` or `name:tag`: never a path that leads anywhere."""
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
Module = Annotated[str, Field(max_length=200)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Empty = Annotated[dict[str, Any], Field(max_length=0)]


class AdapterConfig(BaseModel):
    """A LoRA configuration as PEFT writes it. Fields that are always None switch features off
    that read files, need code or reach beyond LoRA's own weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    peft_type: Literal["LORA"]
    base_model_name_or_path: str = Field(max_length=128, pattern=f"^{BASE_NAME}$")
    r: Rank
    lora_alpha: Annotated[float, Field(gt=0, le=4096)]
    target_modules: Literal["all-linear"] | Annotated[list[Module], Field(max_length=4096)]
    task_type: Literal["CAUSAL_LM"] | None = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bias: Literal["none"] = "none"
    fan_in_fan_out: bool = False
    inference_mode: bool = True
    init_lora_weights: bool = True
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: Literal[False] = False
    rank_pattern: Annotated[dict[Module, Rank], Field(max_length=4096)] = {}
    alpha_pattern: Annotated[dict[Module, float], Field(max_length=4096)] = {}
    layers_to_transform: Annotated[list[int], Field(max_length=1024)] | None = None
    exclude_modules: Annotated[list[Module], Field(max_length=4096)] | None = None
    peft_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,32}$")] | None = None

    @field_validator("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern")
    @classmethod
    def _module_names(cls, names: Any) -> Any:
        """Module names only: PEFT reads some of these as regular expressions."""
        for name in names if isinstance(names, (list, dict)) else ():
            if not _MODULE.fullmatch(name):
                raise ValueError("module names are identifiers joined by dots")
        return names


def normal_adapter_config(data: bytes, base_name: str) -> bytes:
    """PEFT's configuration in the artifact's form: the base by name, unused features left out.

    Training records the base's path and the modules in the order of a hash; neither may reach
    an artifact. Raises: ArtifactError when a used feature is not in the closed schema.
    """
    document = read_json(data, WHAT)
    if not isinstance(document, dict):
        raise ArtifactError(f"{WHAT} is not a mapping")
    known = AdapterConfig.model_fields
    kept = {
        key: value for key, value in document.items() if key in known or not _unused(key, value)
    }
    kept["base_model_name_or_path"] = base_name
    for names in ("target_modules", "exclude_modules"):
        if isinstance(kept.get(names), list):
            kept[names] = sorted(kept[names])
    return canonical(_checked(kept).model_dump(mode="json", exclude_none=True))


def check_adapter_config(data: bytes, base_name: str) -> AdapterConfig:
    """The configuration in `data`, for exactly this base.

    Raises: ArtifactError naming the field that is unknown, out of bounds or another base's.
    """
    config = _checked(read_canonical(data, WHAT))
    if config.base_model_name_or_path != base_name:
        raise ArtifactError(f"{WHAT} names another base than the manifest")
    return config


def _checked(document: Any) -> AdapterConfig:
    try:
        return AdapterConfig.model_validate(document)
    except ValidationError as error:
        raise ArtifactError(f"{WHAT}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first fault in words, without the offending value: it may be anybody's text."""
    fault = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part)[:80] for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"the key {where} is not allowed"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}" if where else fault["msg"]


def _unused(key: str, value: Any) -> bool:
    """Whether PEFT wrote this key only to say that the feature is off."""
    defaults: dict[str, Any] = {"megatron_core": "megatron.core", "qalora_group_size": 16}
    return not value or key == "auto_mapping" or defaults.get(key) == value
