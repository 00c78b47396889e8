"""Pairs in and out: `capture`, `labels`, `import`, `feedback`, `erase`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from apprentice_pipeline.cli import opening
from apprentice_pipeline.cli.terminal import json_option, terminal
from apprentice_pipeline.errors import UsageError

tenant_option = click.option("--tenant", help="Default: the tenant `default`.")
namespace_option = click.option("--namespace", required=True, help="The task's stream.")


@click.group(invoke_without_command=True)
@click.option("--provider", type=click.Choice(["openai", "anthropic"]))
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
            workspace, tenant=tenant, namespace=namespace, role="capture", provider=provider
        )
        change = sdk_change(workspace.config.gateway, provider, created.key)
    terminal().result(
        {
            "id": created.id,
            "key": created.key,
            "tenant": tenant,
            "namespace": namespace,
            "provider": provider,
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
    from apprentice_pipeline.stages import readiness

    with opening.workspace() as workspace:
        streams = readiness.of_tenant(workspace, tenant or "default", namespace)
    documents = [stream.to_dict() for stream in streams]
    if not streams:
        terminal().result(
            documents,
            "nothing captured yet\n"
            "next: `apprentice serve`, then point a client at it (`apprentice capture --help`)",
        )
        return
    terminal().result(
        documents[0] if namespace else documents, "\n".join(s.text() for s in streams)
    )


@click.command()
@namespace_option
@tenant_option
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl")
@click.option("--since", help="RFC 3339, inclusive.")
@click.option("--until", help="RFC 3339, exclusive.")
@click.option("--min-confidence", type=click.FloatRange(0, 1))
@click.option("--limit", type=click.IntRange(min=1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout.")
@json_option
def labels(
    namespace: str,
    tenant: str | None,
    form: str,
    since: str | None,
    until: str | None,
    min_confidence: float | None,
    limit: int | None,
    out: Path | None,
) -> None:
    """Exports the captured pairs with their verdicts."""
    from apprentice_pipeline.stages import export

    if form == "parquet" and out is None:
        raise UsageError("parquet is not text", remedy="name a file with --out FILE")
    tenant, namespace = opening.checked_stream(tenant, namespace)
    request = export.Request(tenant, namespace, form, since, until, min_confidence, limit)
    with opening.workspace() as workspace:
        if out is None and not terminal().as_json:
            export.write(workspace, request, sys.stdout.buffer)
            return
        if out is None:
            terminal().result([*export.rows(workspace, request)], "")
            return
        written = export.write_file(workspace, request, out)
    terminal().result(
        {"path": str(out), "rows": written, "format": form}, f"wrote {written} rows to {out}"
    )


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@namespace_option
@tenant_option
@click.option("--source", type=click.Choice(["openai", "jsonl"]), default="jsonl")
@click.option("--skip-bad", is_flag=True, help="Skip malformed lines instead of refusing them.")
@json_option
def import_(file: Path, namespace: str, tenant: str | None, source: str, skip_bad: bool) -> None:
    """Brings history in: JSON lines of pairs, or an OpenAI fine-tuning file. Idempotent."""
    from apprentice_pipeline.stages import history

    tenant, namespace = opening.checked_stream(tenant, namespace)
    with opening.workspace() as workspace:
        done = history.import_file(
            workspace, file, tenant=tenant, namespace=namespace, source=source, skip_bad=skip_bad
        )
    terminal().result(
        done.to_dict(),
        f"imported {done.imported}, already there {done.known}, skipped {done.skipped}",
    )


@click.command()
@click.argument("pair_id")
@click.option("--approve", "action", flag_value="approve")
@click.option("--reject", "action", flag_value="reject")
@click.option("--edit", metavar="JSON", help="The corrected output.")
@tenant_option
@json_option
def feedback(pair_id: str, action: str | None, edit: str | None, tenant: str | None) -> None:
    """A person's label of a pair."""
    from apprentice_pipeline.stages.labelling import record_feedback

    if (action is None) == (edit is None):
        raise UsageError(
            "say exactly one of --approve, --reject and --edit JSON", remedy="see --help"
        )
    with opening.workspace() as workspace:
        recorded = record_feedback(
            workspace,
            tenant or "default",
            pair_id,
            action=action or "edit",
            edit=_json_value(edit) if edit is not None else None,
        )
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
@json_option
def erase(
    namespace: str | None, tenant: str | None, pair_id: str | None, everything: bool, yes: bool
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
    what = f"tenant {tenant}" if namespace is None else f"{pair_id or 'everything'} in {namespace}"
    if not yes and not terminal().as_json and sys.stdin.isatty():
        click.confirm(f"erase {what} for good?", abort=True, err=True)
    with opening.workspace() as workspace:
        done = erasure.erase(workspace, tenant or "default", namespace, pair_id)
    terminal().result(done.to_dict(), f"erased {done.pairs} pairs of {what}")


def _json_value(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        raise UsageError(
            "--edit is not JSON", remedy="quote it for the shell: --edit '{\"a\": 1}'"
        ) from None
