"""Keys, and the one change a client makes to use one."""

from __future__ import annotations

from dataclasses import dataclass

from apprentice_pipeline.config import Gateway
from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.records import now_us
from apprentice_pipeline.store.keys import CreatedKey
from apprentice_pipeline.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class SdkChange:
    """The base URL and header a client sets, and the same as text for a person."""

    base_url: str
    header: str
    text: str


def create_key(
    workspace: Workspace,
    *,
    tenant: str,
    namespace: str | None,
    role: str | None,
    provider: str | None = None,
) -> CreatedKey:
    """A new key; the role defaults to `capture` with a namespace, else `tenant`."""
    return workspace.state.create_key(
        tenant=tenant,
        namespace=namespace,
        role=role or ("capture" if namespace else "tenant"),
        provider=provider,
        now_us=now_us(),
    )


def seal_provider_key(workspace: Workspace, tenant: str, provider: str, variable: str) -> None:
    """Seals the provider key in environment variable `variable` for the tenant (virtual keys).

    Raises: UsageError when the variable is not set.
    """
    found = workspace.settings.api_key(variable)
    if found is None:
        raise UsageError(f"{variable} is not set", remedy=f"export {variable}=… and run it again")
    sealed = workspace.vault.seal(
        found.encode(), tenant=tenant, namespace="", pair_id=provider, field="provider-key"
    )
    workspace.state.put_provider_key(tenant, provider, sealed)


def sdk_change(gateway: Gateway, provider: str, key: str) -> SdkChange:
    """The one change for the provider's official Python SDK."""
    root = f"http://{gateway.host}:{gateway.port}/v1/capture/{provider}"
    base_url = f"{root}/v1" if provider == "openai" else root
    client = {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]
    header = f'default_headers={{"x-apprentice-key": "{key}"}}'
    text = (
        f"the one change, in your {provider} client:\n\n"
        f'  {client}(\n    base_url="{base_url}",\n    {header},\n  )\n\n'
        "the key is shown this once; the gateway runs with `apprentice serve`"
    )
    return SdkChange(base_url=base_url, header=f"x-apprentice-key: {key}", text=text)
