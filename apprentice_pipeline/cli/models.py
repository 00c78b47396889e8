"""From pairs to a model and back: `distill`, `inspect`, `verify`, `diff`, `promote`, `rollback`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from apprentice_pipeline.cli import opening
from apprentice_pipeline.cli.terminal import json_option, table, terminal
from apprentice_pipeline.cli.traffic import namespace_option, tenant_option
from apprentice_pipeline.errors import UsageError

artifact_argument = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


@click.command()
@namespace_option
@tenant_option
@click.option("--base-model", metavar="M", help="`embedded`, a Hugging Face id, or a folder.")
@click.option("--target-size", metavar="SIZE", help="For the footprint score, such as 50MB.")
@json_option
def distill(
    namespace: str, tenant: str | None, base_model: str | None, target_size: str | None
) -> None:
    """Verify, split, train, K-score, sign, register: one Dagster run, recorded in the home."""
    from apprentice_pipeline.cli.watching import stage_bars
    from apprentice_pipeline.orchestration.pipeline import Pipeline
    from apprentice_pipeline.orchestration.runs import distill as run
    from apprentice_pipeline.stages.results import ScoredAdapter, TrainedAdapter, load

    tenant, namespace = opening.checked_stream(tenant, namespace)
    target_bytes = _bytes_of(target_size) if target_size else None
    with stage_bars(terminal()) as progress:
        pipeline = Pipeline(
            opening.environment(),
            base_model=base_model,
            target_bytes=target_bytes,
            progress=progress,
        )
        registered = run(pipeline, tenant, namespace)
    trained = load(pipeline.workspace, tenant, namespace, TrainedAdapter)
    scored = load(pipeline.workspace, tenant, namespace, ScoredAdapter)
    pipeline.workspace.close()
    document = {
        "tenant": tenant,
        "namespace": namespace,
        "trained_pairs": trained.rows,
        "holdout": len(scored.rows),
        "k_score": scored.score["k"],
        "fidelity": scored.score["fidelity"],
        "fidelity_low": scored.score["fidelity_low"],
        "fidelity_high": scored.score["fidelity_high"],
        "statement": scored.score["statement"],
        "artifact": registered.path,
        "digest": registered.digest,
        "version": registered.version,
        "alias": registered.alias,
    }
    terminal().result(
        document,
        f"trained LoRA on {trained.rows} verified pairs ({len(scored.rows)} holdout)\n"
        f"K-score {scored.score['k']:.2f} — {scored.score['statement']}\n"
        f"version {registered.version} is {registered.alias}\n"
        f"{registered.path}",
    )


@click.command()
@artifact_argument
@json_option
def inspect(file: Path) -> None:
    """What is in a .kolm: contents, proof, scores. Reads, trusts nothing."""
    from apprentice_pipeline.artifact.kolm import inspect as look

    document = look(file)
    terminal().result(document, _described(document))


@click.command()
@artifact_argument
@click.option("--public-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def verify(file: Path, public_key: Path | None) -> None:
    """Re-hashes, walks the chain, recomputes K and checks the signature of a .kolm; or checks
    the signed proof of an erasure."""
    from apprentice_pipeline.artifact.kolm import report
    from apprentice_pipeline.artifact.statement import looks_like_statement
    from apprentice_pipeline.stages.artifact import verify_with

    with file.open("rb") as opened:
        if looks_like_statement(opened.read(64)):
            _verify_erasure(file, public_key)
            return
    verified = verify_with(opening.settings(), file, public_key)
    document = report(verified)
    terminal().result(
        document,
        f"verified {file.name}\n"
        f"digest    {verified.digest}\n"
        f"signature good, by the pinned key {verified.signed_by[:16]}\n"
        f"chain     six links hold; {document['mac']}\n"
        f"K-score   {verified.score.k:.4f}, recomputed from the rows' scores\n"
        f"          {verified.score.statement}",
    )


def _verify_erasure(file: Path, public_key: Path | None) -> None:
    from apprentice_pipeline.artifact.signing import fingerprint, trusted_key
    from apprentice_pipeline.artifact.statement import read_statement
    from apprentice_pipeline.stages.erasure import KIND

    settings = opening.settings()
    pinned = str(public_key) if public_key else settings.config.signing.public_key
    trusted = trusted_key(settings.home.keys, public_key=pinned)
    facts = read_statement(file.read_bytes(), trusted, KIND)
    scope = facts["scope"]
    what = ".".join(each for each in (scope["tenant"], scope["namespace"]) if each)
    signed_by = fingerprint(trusted)
    terminal().result(
        {"verified": True, "signed_by": signed_by, **facts},
        f"verified {file.name}\n"
        f"erased    {len(facts['pair_ids'])} pairs of {what}, {facts['erased_at']}\n"
        f"signature good, by the pinned key {signed_by[:16]}",
    )


@click.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def diff(a: Path, b: Path) -> None:
    """What changed between two artifacts' receipts."""
    from apprentice_pipeline.artifact.kolm import diff as compare

    document = compare(a, b)
    rows = [
        (link, fact, _short(before), _short(after))
        for link, facts in document["receipt"].items()
        for fact, (before, after) in facts.items()
    ]
    rows += [
        ("manifest", key, *map(_short, values)) for key, values in document["manifest"].items()
    ]
    text = table(["link", "field", a.name, b.name], rows) if rows else "no difference"
    terminal().result(document, text)


@click.command()
@namespace_option
@tenant_option
@click.option("--version", type=click.IntRange(min=1), help="Default: the newest challenger.")
@json_option
def promote(namespace: str, tenant: str | None, version: int | None) -> None:
    """Moves the champion alias: the router follows, starting in shadow."""
    from apprentice_pipeline.stages import promotion

    tenant, namespace = opening.checked_stream(tenant, namespace)
    with opening.workspace() as workspace:
        champion = promotion.promote(workspace, tenant, namespace, version)
    terminal().result(
        {"namespace": namespace, "version": champion.version, "digest": champion.digest},
        f"version {champion.version} is champion of {tenant}.{namespace}; it starts in shadow",
    )


@click.command()
@namespace_option
@tenant_option
@click.option("--version", type=click.IntRange(min=1), help="Default: the champion before this.")
@json_option
def rollback(namespace: str, tenant: str | None, version: int | None) -> None:
    """Moves the champion alias back to an older version."""
    from apprentice_pipeline.stages import promotion

    tenant, namespace = opening.checked_stream(tenant, namespace)
    with opening.workspace() as workspace:
        champion = promotion.rollback(workspace, tenant, namespace, version)
    terminal().result(
        {"namespace": namespace, "version": champion.version, "digest": champion.digest},
        f"rolled back to version {champion.version} of {tenant}.{namespace}; it starts in shadow",
    )


def _bytes_of(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{text!r} is not a size", remedy="write it like 50MB")
    factor = {"": 1, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000}[found[2].upper()]
    return int(float(found[1]) * factor)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _described(document: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in document.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _described(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{name}: {len(value)} entries")
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(line for line in lines if line)
