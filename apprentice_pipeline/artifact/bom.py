"""`bom.cdx.json`: a CycloneDX 1.6 machine-learning bill of materials.

Belongs here: the document's shape. Does not: where the facts come from.
Promise: deterministic, valid against the 1.6 schema, and it names the model with its hashes, the
base with its licence and the corpus by its root hash. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from apprentice_pipeline.artifact.manifest import BaseIdentity

_SPDX = frozenset({"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0"})
_NAMESPACE = uuid.UUID("7b0d4c1e-5d0c-5a63-9a55-2f5f3f9f6a11")


def bill_of_materials(
    *,
    name: str,
    version: str,
    created_at: str,
    base: BaseIdentity,
    file_digests: Mapping[str, str],
    corpus_root: str,
    score: Mapping[str, Any],
    product_version: str,
) -> dict[str, Any]:
    """The document. `version` is the adapter's digest, `file_digests` those of
    the files a server loads, `score` the K-score's `to_dict()`."""
    model = f"model:{name}"
    parent, corpus = f"base:{base.name}", f"corpus:{name}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{name} {version} {created_at}')}",
        "version": 1,
        "metadata": {
            "timestamp": created_at,
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "apprentice-pipeline",
                        "version": product_version,
                    }
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model,
                "name": name,
                "version": version,
                "description": f"LoRA adapter for {base.name}",
                "hashes": [_sha256(version)],
                "components": [_file(file, file_digests[file]) for file in sorted(file_digests)],
                "modelCard": _model_card(corpus, score),
            },
        },
        "components": [_base(parent, base), _corpus(corpus, name, corpus_root)],
        "dependencies": [
            {"ref": model, "dependsOn": [parent, corpus]},
            {"ref": parent},
            {"ref": corpus},
        ],
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}


def _file(name: str, digest: str) -> dict[str, Any]:
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(digest)]}


def _base(reference: str, base: BaseIdentity) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": base.name,
        "hashes": [_sha256(base.digest)],
    }
    if base.license:
        key = "id" if base.license in _SPDX else "name"
        component["licenses"] = [{"license": {key: base.license}}]
    if base.attribution:
        component["copyright"] = base.attribution
    return component


def _corpus(reference: str, name: str, root: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "data",
        "bom-ref": reference,
        "name": f"{name} captured pairs",
        "data": [
            {
                "type": "dataset",
                "name": "train and holdout, as a Merkle root over keyed row hashes",
                "classification": "confidential",
            }
        ],
    }
    if root:
        component["hashes"] = [_sha256(root)]
    return component


def _model_card(corpus: str, score: Mapping[str, Any]) -> dict[str, Any]:
    metrics: list[dict[str, Any]] = [
        {
            "type": "K-score",
            "value": _number(score.get("k")),
            "confidenceInterval": _interval(score.get("low"), score.get("high")),
        },
        {
            "type": "fidelity to the teacher on the holdout",
            "value": _number(score.get("fidelity")),
            "confidenceInterval": _interval(score.get("fidelity_low"), score.get("fidelity_high")),
        },
    ]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "datasets": [{"ref": corpus}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }


def _interval(low: Any, high: Any) -> dict[str, str]:
    return {"lowerBound": _number(low), "upperBound": _number(high)}


def _number(value: Any) -> str:
    return f"{float(value):.4f}" if value is not None else "not measured"
