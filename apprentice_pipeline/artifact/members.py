"""Which files an artifact holds, and how large each may be.

Belongs here: the closed list of members. Does not: their content. Promise: a name that is not
in `MEMBERS` is never written and never read.
"""

from __future__ import annotations

_MIB = 1 << 20

MANIFEST = "manifest.json"
RECEIPT = "receipt.json"
EVALS = "evals.json"
CARD = "MODEL_CARD.md"
BOM = "bom.cdx.json"
SIGNATURE = "model.sig"
WEIGHTS = "adapter/adapter_model.safetensors"
ADAPTER_CONFIG = "adapter/adapter_config.json"
TOKENIZER = "tokenizer/tokenizer.json"
TOKENIZER_CONFIG = "tokenizer/tokenizer_config.json"
SPECIAL_TOKENS = "tokenizer/special_tokens_map.json"
CHAT_TEMPLATE = "tokenizer/chat_template.jinja"

MEMBERS: dict[str, int] = {
    MANIFEST: _MIB,
    RECEIPT: 4 * _MIB,
    EVALS: 256 * _MIB,
    CARD: _MIB,
    BOM: _MIB,
    SIGNATURE: _MIB,
    WEIGHTS: 2048 * _MIB,
    ADAPTER_CONFIG: _MIB,
    TOKENIZER: 64 * _MIB,
    TOKENIZER_CONFIG: _MIB,
    SPECIAL_TOKENS: _MIB,
    CHAT_TEMPLATE: _MIB // 16,
}
"""Every member an artifact may hold, with its largest size in bytes."""

OPTIONAL = frozenset({SPECIAL_TOKENS})
REQUIRED = tuple(sorted(set(MEMBERS) - OPTIONAL))
UNDIGESTED = frozenset({MANIFEST, SIGNATURE})
"""Members whose digest the manifest cannot carry: itself, and the signature over it."""

MAX_MEMBERS = 32
MAX_ARTIFACT_BYTES = 3072 * _MIB
