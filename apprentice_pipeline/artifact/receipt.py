"""The receipt: six linked facts that say how a model came to be.

Belongs here: linking, checking and comparing. Does not: gathering the facts.
Promise: changing, dropping or swapping a link breaks every later one: for a stranger by
`prev` (SHA-256 of the canonical previous link), for a holder of the secret by `mac`
(HMAC-SHA256 over a context, the previous mac and the canonical link without its own) as well.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any

from apprentice_pipeline.artifact.canonical import canonical, sha256_hex
from apprentice_pipeline.errors import ArtifactError

LINKS = ("corpus", "verifier", "holdout", "score", "model", "build")
FORMAT = "kolm-receipt-v2"
_CONTEXT = FORMAT.encode()
_NO_MAC = bytes(32)
_KEYS = {"link", "facts", "prev", "mac"}
_HEX = re.compile(r"[0-9a-f]{64}")

Link = dict[str, Any]


def build_receipt(
    links: Sequence[tuple[str, Mapping[str, Any]]], *, secret: bytes | None
) -> list[Link]:
    """The chained links of `(name, facts)` pairs, which must come in the order of `LINKS`.

    Without a secret `mac` is null. Raises: ArtifactError on another order, or on facts that
    JSON cannot carry.
    """
    names = tuple(name for name, _ in links)
    if names != LINKS:
        raise ArtifactError(f"a receipt has the links {', '.join(LINKS)}, in this order")
    chain: list[Link] = []
    previous, mac = "", _NO_MAC
    for name, facts in links:
        link: Link = {"link": name, "facts": dict(facts), "prev": previous, "mac": None}
        if secret is not None:
            mac = _mac(secret, mac, link)
            link["mac"] = mac.hex()
        chain.append(link)
        previous = sha256_hex(canonical(link))
    return chain


def check_receipt(links: Any, secret: bytes | None = None) -> bool:
    """Walks the chain; True when the macs were checked too, False without a secret or any mac.

    A receipt made before there was a secret carries no mac at all: the signature vouches for it.
    Raises: ArtifactError: a malformed, missing or misplaced link, a broken `prev`, some macs absent
    or one wrong.
    """
    if not isinstance(links, list) or any(not _is_link(link) for link in links):
        raise ArtifactError("receipt.json does not hold links of link, facts, prev and mac")
    names = tuple(link["link"] for link in links)
    if names != LINKS:
        raise ArtifactError(f"receipt.json does not hold the links {', '.join(LINKS)} in order")
    previous = ""
    for link in links:
        if link["prev"] != previous:
            raise ArtifactError(f"the receipt breaks at link {link['link']}: prev does not match")
        previous = sha256_hex(canonical(link))
    if secret is None or not carries_macs(links):
        return False
    _check_macs(links, secret)
    return True


def carries_macs(links: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any link carries a mac: none does where it was built without a secret."""
    return any(link["mac"] is not None for link in links)


def receipt_head(links: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the canonical last link: the one value that stands for the whole receipt."""
    return sha256_hex(canonical(dict(links[-1])))


def facts_of(links: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The facts of the link called `name`."""
    return next(dict(link["facts"]) for link in links if link["link"] == name)


def diff_receipts(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[Any]]]:
    """What differs, by link and fact: `[before, after]`, None where a side lacks it."""
    changes: dict[str, dict[str, list[Any]]] = {}
    for name in LINKS:
        old, new = facts_of(before, name), facts_of(after, name)
        changed = {
            fact: [old.get(fact), new.get(fact)]
            for fact in sorted({*old, *new})
            if old.get(fact) != new.get(fact) or (fact in old) != (fact in new)
        }
        if changed:
            changes[name] = changed
    return changes


def _check_macs(links: list[Link], secret: bytes) -> None:
    mac = _NO_MAC
    for link in links:
        if link["mac"] is None:
            raise ArtifactError(
                f"the receipt breaks at link {link['link']}: its mac is missing",
                remedy="others carry theirs, so it was taken out: get the file again",
            )
        expected = _mac(secret, mac, link)
        if not hmac.compare_digest(expected.hex(), link["mac"]):
            raise ArtifactError(
                f"the receipt breaks at link {link['link']}: its mac does not match",
                remedy="is APPRENTICE_SIGNING_SECRET the one the artifact was built with?",
            )
        mac = expected


def _mac(secret: bytes, previous: bytes, link: Mapping[str, Any]) -> bytes:
    body = canonical({key: value for key, value in link.items() if key != "mac"})
    return hmac.digest(secret, _CONTEXT + previous + body, "sha256")


def _is_link(link: Any) -> bool:
    if not isinstance(link, dict) or set(link) != _KEYS or not isinstance(link["facts"], dict):
        return False
    mac = link["mac"]
    return mac is None or (isinstance(mac, str) and _HEX.fullmatch(mac) is not None)
