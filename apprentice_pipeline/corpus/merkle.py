"""Merkle trees as in RFC 6962, section 2.1: roots, inclusion proofs, their check.

Belongs here: hashes over byte strings. Does not: what the leaves mean.
A leaf hash is SHA-256(0x00 ‖ leaf), a node's SHA-256(0x01 ‖ left ‖ right), an empty tree's
SHA-256 of nothing; no tree is padded, so that no two lists of leaves share a root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte tree hash of the leaves, in order."""
    level = [_leaf_hash(leaf) for leaf in leaves]
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The audit path of the leaf at `index`, from the leaf upwards.

    Raises: IndexError when there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    path = []
    level = [_leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _next_level(level)
        index //= 2
    return tuple(path)


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` stands at `index` of the tree of `size` leaves with that root.

    The verification of RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    node, last = index, size - 1
    digest = _leaf_hash(leaf)
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            digest = _node_hash(sibling, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = _node_hash(digest, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and digest == root


def _next_level(level: list[bytes]) -> list[bytes]:
    """Pairs joined; an odd one out is carried up as it is (the RFC's split at a power of two)."""
    pairs = [_node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return pairs + level[-1:] if len(level) % 2 else pairs


def _leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
