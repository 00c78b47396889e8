"""Keys: `key` (access keys, the master key) and `provider-key` (sealed on the server)."""

from __future__ import annotations

import re

import click

from apprentice_pipeline.cli import opening
from apprentice_pipeline.cli.terminal import json_option, table, terminal
from apprentice_pipeline.errors import UsageError

PROVIDERS = ("openai", "anthropic", "gemini")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
provider_choice = click.Choice(PROVIDERS)


@click.group()
def key() -> None:
    """Tenant, capture and operator keys; the master key."""


@key.command("create")
@click.option("--tenant", required=True, help="The owner of the data.")
@click.option("--namespace", help="Restricts the key to one namespace.")
@click.option(
    "--role",
    type=click.Choice(["tenant", "capture", "operator"]),
    help="Default: tenant; capture when a namespace is given.",
)
@click.option("--expires", metavar="DURATION", help="Such as 90d or 12h; default: never.")
@click.option(
    "--provider-key-env",
    help="Seal this environment variable's provider key on the server (virtual key); "
    "needs --provider.",
)
@click.option("--provider", type=provider_choice)
@json_option
def create(
    tenant: str,
    namespace: str | None,
    role: str | None,
    expires: str | None,
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
    lasts_us = duration_us(expires, "--expires") if expires else None
    with opening.workspace() as workspace:
        if provider_key_env and provider:
            seal_provider_key(workspace, tenant, provider, provider_key_env)
        created = create_key(
            workspace, tenant=tenant, namespace=namespace, role=role, lasts_us=lasts_us
        )
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
    from apprentice_pipeline.records import now_us, rfc3339

    with opening.workspace() as workspace:
        keys = workspace.state.list_keys()
    now = now_us()
    rows = [
        {
            "id": k.id,
            "tenant": k.tenant,
            "namespace": k.namespace,
            "role": k.role,
            "label": k.label,
            "created_at": rfc3339(k.created_at_us),
            "expires_at": rfc3339(k.revoked_at_us or 0) if k.revoked_at_us and ends else None,
            "revoked_at": rfc3339(k.revoked_at_us) if k.revoked_at_us and not ends else None,
        }
        for k in keys
        for ends in (k.is_good(now),)
    ]
    headings = ["id", "tenant", "namespace", "role", "label"]
    headings += ["created_at", "expires_at", "revoked_at"]
    text = (
        table(headings, [[row[h] or "" for h in headings] for row in rows]) if rows else "no keys"
    )
    terminal().result(rows, text)


@key.command()
@click.argument("id_", metavar="ID")
@json_option
def revoke(id_: str) -> None:
    """Revokes a key, at once and on every worker."""
    from apprentice_pipeline.stages.access import revoke_key

    with opening.workspace() as workspace:
        revoke_key(workspace, id_)
    terminal().result({"id": id_, "revoked": True}, f"revoked {id_}")


@key.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--grace", metavar="DURATION", help="How long the old key stays good, such as 1h; default: 0s."
)
@json_option
def rotate(id_: str, grace: str | None) -> None:
    """A new key with the same rights; the old one ends, at once or after --grace."""
    from apprentice_pipeline.stages.access import rotate_key

    grace_us = duration_us(grace, "--grace") if grace else 0
    with opening.workspace() as workspace:
        created = rotate_key(workspace, id_, grace_us)
    document = {
        "id": created.id,
        "key": created.key,
        "tenant": created.tenant,
        "namespace": created.namespace,
        "role": created.role,
        "replaces": id_,
        "grace_seconds": grace_us // 1_000_000,
    }
    ends = f"is good for {grace} more" if grace_us else "is revoked"
    terminal().result(
        document, f"{created.id} replaces {id_}, which {ends}; shown this once:\n{created.key}"
    )


@key.command("rotate-master")
@json_option
def rotate_master() -> None:
    """Re-wraps every data key by APPRENTICE_NEW_MASTER_KEY, else by a new key in the key file."""
    from dataclasses import asdict

    from apprentice_pipeline.settings import master_key_of
    from apprentice_pipeline.stages.access import rotate_master as rotate_it

    new = master_key_of(opening.settings().environment, "APPRENTICE_NEW_MASTER_KEY")
    with opening.workspace() as workspace:
        done = rotate_it(workspace, new)
    terminal().result(
        asdict(done),
        f"{done.data_keys} data keys re-wrapped; the new master key is in the {done.kept_in}\n"
        f"next: {done.next_step}",
    )


@click.group("provider-key")
def provider_key() -> None:
    """Provider keys sealed on the server, for clients that hold a capture key only."""


@provider_key.command("set")
@click.option("--tenant", required=True)
@click.option("--provider", type=provider_choice, required=True)
@click.option("--env", "variable", required=True, help="The environment variable that holds it.")
@json_option
def set_(tenant: str, provider: str, variable: str) -> None:
    """Seals a provider key, replacing the one there, at once and on every worker."""
    from apprentice_pipeline.stages.access import seal_provider_key

    opening.checked_name(tenant, "tenant")
    with opening.workspace() as workspace:
        seal_provider_key(workspace, tenant, provider, variable)
    terminal().result(
        {"tenant": tenant, "provider": provider, "sealed": True},
        f"sealed the {provider} key of {tenant}",
    )


@provider_key.command("list")
@json_option
def list_provider_keys() -> None:
    """Which tenants have one for which provider."""
    with opening.workspace() as workspace:
        found = workspace.state.provider_keys()
    rows = [{"tenant": tenant, "provider": provider} for tenant, provider in found]
    terminal().result(rows, table(["tenant", "provider"], found) if found else "no provider keys")


@provider_key.command("delete")
@click.option("--tenant", required=True)
@click.option("--provider", type=provider_choice, required=True)
@json_option
def delete(tenant: str, provider: str) -> None:
    """Forgets a provider key, at once and on every worker."""
    with opening.workspace() as workspace:
        if not workspace.state.delete_provider_key(tenant, provider):
            raise UsageError(
                f"no {provider} key of {tenant} is stored", remedy="see `provider-key list`"
            )
    terminal().result(
        {"tenant": tenant, "provider": provider, "deleted": True},
        f"deleted the {provider} key of {tenant}",
    )


def duration_us(text: str, option: str) -> int:
    """`90d`, `12h`, `30m` or `45s` as microseconds. Raises: UsageError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found:
        raise UsageError(f"{option} {text!r} is not a duration", remedy="write it like 90d or 1h")
    return int(found[1]) * _UNITS_S[found[2]] * 1_000_000
