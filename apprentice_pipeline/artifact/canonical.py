"""JSON as the artifact stores it: one spelling per value (RFC 8785), read without surprises.

Belongs here: writing canonical JSON, reading JSON that a stranger may have written, digests.
Does not: what the documents mean. Promise: `read_canonical` accepts exactly the bytes that
`canonical` writes, so a document has one digest and no key stands twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import rfc8785

from apprentice_pipeline.errors import ArtifactError

_EXACT_BELOW = 2**53
_MOST_DIGITS = 17


def canonical(value: Any) -> bytes:
    """`value` as RFC 8785 JSON.

    Raises: ArtifactError for what JSON cannot carry: not-a-number, infinities, integers
    beyond 2^53, keys that are not text, objects that are not plain.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise ArtifactError(
            f"a fact cannot be written as canonical JSON: {type(error).__name__}",
            remedy="use plain text, finite numbers, lists and mappings with text keys",
        ) from None


def read_json(data: bytes, what: str) -> Any:
    """The JSON value in `data`; `what` names it in messages.

    Raises: ArtifactError when it is not UTF-8 JSON, nests too deep or repeats a key.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_whole,
        )
    except ArtifactError as error:
        raise ArtifactError(f"{what} {error.message}") from None
    except UnicodeDecodeError:
        raise ArtifactError(f"{what} is not UTF-8 text") from None
    except RecursionError:
        raise ArtifactError(f"{what} nests too deep") from None
    except ValueError:
        raise ArtifactError(f"{what} is not JSON") from None


def read_canonical(data: bytes, what: str) -> Any:
    """The JSON value in `data`, which must be in canonical form.

    Raises: ArtifactError as `read_json` does, and when the bytes are spelt differently.
    """
    value = read_json(data, what)
    if canonical(value) != data:
        raise ArtifactError(f"{what} is not in canonical form (RFC 8785)")
    return value


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of `data`, lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ArtifactError("holds a key twice")
    return value


def _whole(text: str) -> int | float:
    """JSON has doubles only: what is no exact integer among them is read as the double it is."""
    if len(text) > _MOST_DIGITS:
        return _finite(text)
    number = int(text)
    return number if abs(number) < _EXACT_BELOW else float(number)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ArtifactError("holds a number that is not finite")
    return number
