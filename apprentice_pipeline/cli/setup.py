"""Before the first call: `init`, `doctor`, `key`."""

from __future__ import annotations

from pathlib import Path

import click

from apprentice_pipeline.cli import opening
from apprentice_pipeline.cli.terminal import json_option, table, terminal
from apprentice_pipeline.errors import UsageError


@click.command()
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
def init(force: bool) -> None:
    """Writes a commented apprentice.yaml."""
    from apprentice_pipeline.cli.template import TEMPLATE

    file = Path("apprentice.yaml")
    if file.exists() and not force:
        raise UsageError(f"{file} exists", remedy="edit it, or replace it with `--force`")
    file.write_text(TEMPLATE, encoding="utf-8")
    terminal().result(
        {"path": str(file)},
        f"wrote {file}\nnext: `apprentice capture --provider openai --as my-app --namespace NAME`",
    )


@click.command()
@json_option
def doctor() -> None:
    """What is missing on this machine, each with its remedy."""
    from apprentice_pipeline.cli.checkup import examine

    findings = examine()
    document = {
        "ok": all(finding.ok for finding in findings if finding.required),
        "findings": [finding.to_dict() for finding in findings],
    }
    rows = [
        ("ok" if f.ok else "MISSING" if f.required else "—", f.what, f.detail) for f in findings
    ]
    text = table(["", "what", "detail"], rows)
    remedies = [f"  → {f.what}: {f.remedy}" for f in findings if not f.ok and f.remedy]
    terminal().result(document, "\n".join([text, *remedies]))
    if not document["ok"]:
        click.get_current_context().exit(1)


@click.group()
def key() -> None:
    """Tenant, capture and operator keys."""


@key.command("create")
@click.option("--tenant", required=True, help="The owner of the data.")
@click.option("--namespace", help="Restricts the key to one namespace.")
@click.option(
    "--role",
    type=click.Choice(["tenant", "capture", "operator"]),
    help="Default: tenant; capture when a namespace is given.",
)
@click.option(
    "--provider-key-env",
    help="Seal this environment variable's provider key on the server (virtual key); "
    "needs --provider.",
)
@click.option("--provider", type=click.Choice(["openai", "anthropic"]))
@json_option
def create(
    tenant: str,
    namespace: str | None,
    role: str | None,
    provider_key_env: str | None,
    provider: str | None,
) -> None:
    """Creates a key and shows it, this once."""
    from apprentice_pipeline.stages.access import create_key, seal_provider_key

    opening.checked_name(tenant, "tenant")
    if namespace:
        opening.checked_name(namespace, "namespace")
    if bool(provider_key_env) != bool(provider):
        raise UsageError(
            "--provider-key-env and --provider go together",
            remedy="name both, or neither",
        )
    with opening.workspace() as workspace:
        created = create_key(workspace, tenant=tenant, namespace=namespace, role=role)
        if provider_key_env and provider:
            seal_provider_key(workspace, tenant, provider, provider_key_env)
    document = {
        "id": created.id,
        "key": created.key,
        "tenant": created.tenant,
        "namespace": created.namespace,
        "role": created.role,
    }
    terminal().result(
        document,
        f"{created.role} key {created.id} of {created.tenant}"
        f"{'.' + created.namespace if created.namespace else ''}, shown this once:\n{created.key}",
    )


@key.command("list")
@json_option
def list_() -> None:
    """Every key, without its secret."""
    from apprentice_pipeline.records import rfc3339

    with opening.workspace() as workspace:
        keys = workspace.state.list_keys()
    rows = [
        {
            "id": k.id,
            "tenant": k.tenant,
            "namespace": k.namespace,
            "role": k.role,
            "created_at": rfc3339(k.created_at_us),
            "revoked_at": rfc3339(k.revoked_at_us) if k.revoked_at_us else None,
        }
        for k in keys
    ]
    headings = ["id", "tenant", "namespace", "role", "created_at", "revoked_at"]
    text = (
        table(headings, [[row[h] or "" for h in headings] for row in rows]) if rows else "no keys"
    )
    terminal().result(rows, text)


@key.command()
@click.argument("id_", metavar="ID")
@json_option
def revoke(id_: str) -> None:
    """Revokes a key, at once and on every worker."""
    from apprentice_pipeline.records import now_us

    with opening.workspace() as workspace:
        if not workspace.state.revoke_key(id_, now_us()):
            raise UsageError(f"no key {id_} is in force", remedy="see `apprentice key list`")
    terminal().result({"id": id_, "revoked": True}, f"revoked {id_}")
