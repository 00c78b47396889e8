"""Pairs in and out: `capture`, `labels`, `import`, `feedback`, `erase`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from apprentice_pipeline.cli import opening
from apprentice_pipeline.cli.terminal import json_option, terminal
from apprentice_pipeline.errors import UsageError

_FIRST_STEP = "next: `apprentice serve`, then point a client at it (`apprentice capture --help`)"
tenant_option = click.option("--tenant", help="Default: the tenant `default`.")
namespace_option = click.option("--namespace", required=True, help="The task's stream.")


@click.group(invoke_without_command=True)
@click.option("--provider", type=click.Choice(["openai", "anthropic", "gemini"]))
@click.option("--as", "name", help="A name for the client that will use the key.")
@click.option("--namespace", help="The stream its calls go to.")
@tenant_option
@json_option
@click.pass_context
def capture(
    context: click.Context,
    provider: str | None,
    name: str | None,
    namespace: str | None,
    tenant: str | None,
) -> None:
    """Creates a capture key and prints the one base-URL change for that SDK."""
    if context.invoked_subcommand is not None:
        return
    if not (provider and name and namespace):
        raise UsageError(
            "capture needs --provider, --as and --namespace",
            remedy="for example: apprentice capture --provider openai --as web --namespace tickets",
        )
    from apprentice_pipeline.stages.access import create_key, sdk_change

    tenant, namespace = opening.checked_stream(tenant, namespace)
    with opening.workspace() as workspace:
        created = create_key(
            workspace,
            tenant=tenant,
            namespace=namespace,
            role="capture",
            provider=provider,
            label=name,
        )
        change = sdk_change(workspace.config.gateway, provider, created.key)
    terminal().result(
        {
            "id": created.id,
            "key": created.key,
            "tenant": tenant,
            "namespace": namespace,
            "provider": provider,
            "label": name,
            "base_url": change.base_url,
            "header": change.header,
        },
        change.text,
    )


@capture.command("status")
@click.option("--namespace", help="One stream; default: all of the tenant.")
@tenant_option
@json_option
def capture_status(namespace: str | None, tenant: str | None) -> None:
    """Pairs captured and verified, and when the next training is due."""
    from apprentice_pipeline.cli.watching import bars_if_told
    from apprentice_pipeline.stages import readiness
    from apprentice_pipeline.stages.streams import require_known

    tenant = opening.checked_tenant(tenant)
    if namespace is not None:
        opening.checked_name(namespace, "namespace")
    with opening.workspace() as workspace, bars_if_told(terminal()) as counted:
        if namespace is not None:
            require_known(workspace, tenant, namespace)
        streams = readiness.of_tenant(workspace, tenant, namespace, counted)
    documents = [stream.to_dict() for stream in streams]
    text = "\n".join(stream.text() for stream in streams)
    if not any(stream.pairs for stream in streams):
        text = "\n".join(("nothing captured yet", *text.splitlines(), _FIRST_STEP))
    terminal().result(documents[0] if namespace else documents, text)


@click.command()
@namespace_option
@tenant_option
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl")
@click.option(
    "--style",
    type=click.Choice(["pairs", "chat", "trl", "sharegpt"]),
    default="pairs",
    show_default=True,
    help="pairs: every field; chat: OpenAI's fine-tuning file; trl, sharegpt: for those tools.",
)
@click.option("--since", help="RFC 3339, inclusive.")
@click.option("--until", help="RFC 3339, exclusive.")
@click.option("--min-confidence", type=click.FloatRange(0, 1))
@click.option("--limit", type=click.IntRange(min=1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout.")
@json_option
def labels(namespace: str, tenant: str | None, out: Path | None, **chosen: Any) -> None:
    """Exports the captured pairs with their verdicts."""
    from apprentice_pipeline.stages import export

    if chosen["form"] == "parquet" and out is None:
        raise UsageError("parquet is not text", remedy="name a file with --out FILE")
    tenant, namespace = opening.checked_stream(tenant, namespace)
    request = export.Request(tenant, namespace, **chosen)
    export.check(request)
    with opening.workspace() as workspace:
        if out is not None:
            written = export.write_file(workspace, request, out)
        elif terminal().as_json:
            written = export.Written()
            terminal().result([*export.rows(workspace, request, written)], "")
        else:
            written = export.write(workspace, request, sys.stdout.buffer)
    if note := written.note():
        terminal().say(note)
    if out is not None:
        terminal().result(
            {
                "path": str(out),
                "rows": written.rows,
                "format": request.form,
                "style": request.style,
                "left_out": dict(written.left_out),
            },
            f"wrote {written.rows} rows to {out}",
        )


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@namespace_option
@tenant_option
@click.option(
    "--source",
    type=click.Choice(["openai", "litellm", "langfuse", "helicone", "mlflow", "jsonl"]),
    default="jsonl",
    show_default=True,
)
@click.option(
    "--requests",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The input file of the OpenAI batch whose output FILE is.",
)
@click.option("--skip-bad", is_flag=True, help="Skip malformed records instead of refusing them.")
@json_option
def import_(
    file: Path,
    namespace: str,
    tenant: str | None,
    source: str,
    requests: Path | None,
    skip_bad: bool,
) -> None:
    """Brings history in: logs and exports, JSON lines, JSON or CSV, also gzipped. Idempotent."""
    from apprentice_pipeline.stages import importing

    tenant, namespace = opening.checked_stream(tenant, namespace)
    if requests is not None and source != "openai":
        raise UsageError("--requests is for OpenAI batches", remedy="add --source openai")
    request = importing.Request(file, tenant, namespace, source, skip_bad, requests)
    with opening.workspace() as workspace:
        done = importing.import_file(workspace, request)
    passed = f", no pair {done.passed}" if done.passed else ""
    erased = f", erased before {done.erased}" if done.erased else ""
    terminal().result(
        done.to_dict(),
        f"imported {done.imported}, already there {done.known}, skipped {done.skipped}"
        f"{passed}{erased}",
    )


@click.command()
@click.argument("pair_id")
@click.option("--approve", is_flag=True)
@click.option("--reject", is_flag=True)
@click.option("--edit", metavar="JSON", help="The corrected output.")
@tenant_option
@json_option
def feedback(
    pair_id: str, approve: bool, reject: bool, edit: str | None, tenant: str | None
) -> None:
    """A person's label of a pair."""
    from apprentice_pipeline.stages.labelling import record_feedback

    tenant = opening.checked_tenant(tenant)
    said = {"approve": approve, "reject": reject, "edit": edit is not None}
    if sum(said.values()) != 1:
        raise UsageError(
            "say exactly one of --approve, --reject and --edit JSON", remedy="see --help"
        )
    (action,) = (name for name, given in said.items() if given)
    corrected = None if edit is None else _correction(edit)
    with opening.workspace() as workspace:
        recorded = record_feedback(workspace, tenant, pair_id, action=action, edit=corrected)
    terminal().result(
        {"pair_id": pair_id, "action": recorded.action, "namespace": recorded.namespace},
        f"{recorded.action}: {pair_id}",
    )


@click.command()
@click.option("--namespace")
@tenant_option
@click.option("--pair", "pair_id", metavar="ID", help="One pair.")
@click.option("--all", "everything", is_flag=True, help="The whole namespace.")
@click.option("--yes", is_flag=True, help="Do not ask (asked at a terminal only).")
@click.option(
    "--proof",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the signed proof here; `apprentice verify` checks it. A copy stays in the home.",
)
@json_option
def erase(
    namespace: str | None,
    tenant: str | None,
    pair_id: str | None,
    everything: bool,
    yes: bool,
    proof: Path | None,
) -> None:
    """Removes a pair, a namespace (--all) or a whole tenant, provably."""
    from apprentice_pipeline.stages import erasure

    if namespace is None and (tenant is None or pair_id or everything):
        raise UsageError(
            "name what to erase",
            remedy="--namespace NS with --pair ID or --all; or --tenant T alone for all of it",
        )
    if namespace is not None and bool(pair_id) == everything:
        raise UsageError("say --pair ID or --all", remedy="exactly one of the two")
    tenant = opening.checked_tenant(tenant)
    if namespace is not None:
        opening.checked_name(namespace, "namespace")
    what = f"tenant {tenant}" if namespace is None else f"{pair_id or 'everything'} in {namespace}"
    if not yes and not terminal().as_json and sys.stdin.isatty():
        click.confirm(f"erase {what} for good?", abort=True, err=True)
    if proof is not None and not proof.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {proof.parent}", remedy="check --proof")
    with opening.workspace() as workspace:
        done = erasure.erase(workspace, tenant, namespace, pair_id, must_prove=proof is not None)
    if proof is not None and done.proof is not None:
        proof.write_bytes(erasure.proof_bytes(done.proof))
    lines = [f"erased {done.pairs} pairs of {what}"]
    lines += [f"deleted export {path}" for path in done.exports.deleted]
    lines += [f"left export {path}: it was changed since" for path in done.exports.left]
    lines += [f"proof     {proof}"] if proof is not None else []
    terminal().result(done.to_dict(), "\n".join(lines))


def _correction(text: str) -> Any:
    import json

    try:
        corrected = json.loads(text)
    except ValueError:
        raise UsageError(
            "--edit is not JSON", remedy="quote it for the shell: --edit '{\"a\": 1}'"
        ) from None
    if corrected is None:
        raise UsageError(
            "--edit null corrects nothing",
            remedy="give the output it should have been, or --reject",
        )
    return corrected
