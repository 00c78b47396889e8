"""The header of `adapter_model.safetensors`, read without loading a tensor.

Belongs here: the container's arithmetic and the closed list of tensor names. Does not: values.
Promise: what passes is a LoRA's tensors laid end to end, each where its header says, with no
gap, no overlap and no byte left over; nothing is allocated beyond the header's bound.
Format: https://github.com/huggingface/safetensors (8-byte little-endian length, JSON, data).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from apprentice_pipeline.artifact.canonical import read_json
from apprentice_pipeline.errors import ArtifactError

WHAT = "adapter/adapter_model.safetensors"
MAX_HEADER_BYTES = 8 << 20
_MAX_TENSORS = 65_536
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
_LORA_NAME = re.compile(
    r"base_model\.model\.[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
    r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?"
)


@dataclass(frozen=True, slots=True)
class TensorFact:
    """One tensor: its name, element type, shape and place in the data (bytes)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def check_weights(data: bytes) -> tuple[TensorFact, ...]:
    """The tensors of a safetensors file, in the order of their data.

    Raises: ArtifactError with its own text for every way a header can lie.
    """
    header = _header(data)
    metadata = header.pop("__metadata__", {})
    if metadata not in ({}, {"format": "pt"}):
        raise ArtifactError(f"{WHAT}: the metadata holds more than the format")
    if not header:
        raise ArtifactError(f"{WHAT} holds no tensor")
    if len(header) > _MAX_TENSORS:
        raise ArtifactError(f"{WHAT} holds {len(header)} tensors, more than {_MAX_TENSORS}")
    tensors = sorted((_tensor(name, facts) for name, facts in header.items()), key=_place)
    _check_layout(tensors, len(data) - 8 - int.from_bytes(data[:8], "little"))
    return tuple(tensors)


def parameter_count(tensors: tuple[TensorFact, ...]) -> int:
    """How many numbers the tensors hold together."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _header(data: bytes) -> dict[str, Any]:
    if len(data) < 8:
        raise ArtifactError(f"{WHAT} is cut off before its header")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ArtifactError(f"{WHAT}: the header claims {length} bytes, more than allowed")
    if length > len(data) - 8:
        raise ArtifactError(f"{WHAT}: the header claims more bytes than the file has")
    header = read_json(data[8 : 8 + length], f"{WHAT}: the header")
    if not isinstance(header, dict):
        raise ArtifactError(f"{WHAT}: the header is not a mapping")
    return header


def _tensor(name: str, facts: Any) -> TensorFact:
    shown = repr(name[:80])
    if not _LORA_NAME.fullmatch(name):
        raise ArtifactError(f"{WHAT}: tensor {shown} is not a LoRA weight")
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactError(f"{WHAT}: tensor {shown} is not described as the format says")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTH:
        raise ArtifactError(f"{WHAT}: tensor {shown} has an element type that is not allowed")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 4:
        raise ArtifactError(f"{WHAT}: tensor {shown} has an impossible shape or place")
    if offsets[1] - offsets[0] != math.prod(shape) * _WIDTH[dtype]:
        raise ArtifactError(f"{WHAT}: tensor {shown} has another size than its shape says")
    return TensorFact(name, dtype, tuple(shape), offsets[0], offsets[1])


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 40 for value in values
    )


def _place(tensor: TensorFact) -> tuple[int, int]:
    return tensor.begin, tensor.end


def _check_layout(tensors: list[TensorFact], size: int) -> None:
    position = 0
    for tensor in tensors:
        shown = repr(tensor.name[:80])
        if tensor.begin < position:
            raise ArtifactError(f"{WHAT}: tensor {shown} overlaps another")
        if tensor.begin > position:
            raise ArtifactError(f"{WHAT}: bytes before tensor {shown} belong to none")
        if tensor.end > size:
            raise ArtifactError(f"{WHAT}: tensor {shown} lies outside the file")
        position = tensor.end
    if position != size:
        raise ArtifactError(f"{WHAT}: {size - position} bytes after the last tensor")
