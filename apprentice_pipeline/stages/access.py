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
    lasts_us: int | None = None,
    label: str | None = None,
) -> CreatedKey:
    """A new key; the role defaults to `capture` with a namespace, else `tenant`.

    `lasts_us`: how long it is good; None is for good. `label`: what a person calls it.
    """
    now = now_us()
    return workspace.state.create_key(
        tenant=tenant,
        namespace=namespace,
        role=role or ("capture" if namespace else "tenant"),
        provider=provider,
        now_us=now,
        expires_at_us=None if lasts_us is None else now + lasts_us,
        label=label,
    )


def rotate_key(workspace: Workspace, key_id: str, grace_us: int) -> CreatedKey:
    """A new key with the same rights; the old one is good for `grace_us` more, or not at all.

    Raises: UsageError when no such key is in force.
    """
    created = workspace.state.rotate_key(key_id, grace_us=grace_us, now_us=now_us())
    if created is None:
        raise _not_in_force(key_id)
    return created


def revoke_key(workspace: Workspace, key_id: str) -> None:
    """Ends a key; when this returns no gateway worker of this node accepts it any more.

    Raises: UsageError when no such key is in force.
    """
    if not workspace.state.revoke_key(key_id, now_us()):
        raise _not_in_force(key_id)


@dataclass(frozen=True, slots=True)
class RotatedMaster:
    """How many data keys are under the new master key, and who keeps it."""

    data_keys: int
    kept_in: str
    next_step: str


def rotate_master(workspace: Workspace, new: bytes | None) -> RotatedMaster:
    """Puts every data key under a new master key: `new`, or one made in the home's key file.

    Rows and sealed provider keys stay as they are. Raises: MasterKeyChanged, StoreError.
    """
    from apprentice_pipeline.store.master_key import load_master_key, rotate_master_key
    from apprentice_pipeline.vault import MasterKey

    settings, keys = workspace.settings, workspace.state.data_keys
    folder = workspace.home.keys
    given = settings.master_key
    if new is not None and keys.mark() == MasterKey(new).mark:
        return RotatedMaster(0, "environment", "nothing: that key is in force already")
    current = load_master_key(given, folder, keys, has_data=True)
    done = rotate_master_key(current, folder, keys, new=new)
    return RotatedMaster(done, "environment" if new else "file", _after_rotation(given, new))


def _after_rotation(given: bytes | None, new: bytes | None) -> str:
    if new is not None:
        return (
            "set APPRENTICE_MASTER_KEY to the new key everywhere and restart running gateways "
            "now: they go on for the tenants they know, but cannot start a worker or take in a "
            "new tenant"
        )
    if given is not None:
        return (
            "unset APPRENTICE_MASTER_KEY everywhere and restart running gateways now; the new "
            "key is in the key file: back it up"
        )
    return "back up the key file; running gateways go on by themselves"


def _not_in_force(key_id: str) -> UsageError:
    return UsageError(f"no key {key_id} is in force", remedy="see `apprentice key list`")


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
    """The one change for the provider's official Python SDK: https where the gateway has TLS."""
    scheme = "https" if gateway.tls_certificate else "http"
    root = f"{scheme}://{gateway.host}:{gateway.port}/v1/capture/{provider}"
    base_url = f"{root}/v1" if provider == "openai" else root
    headers = f'{{"x-apprentice-key": "{key}"}}'
    if provider == "gemini":
        options = f'"base_url": "{base_url}",\n      "headers": {headers},'
        call = f"genai.Client(\n    http_options={{\n      {options}\n    }},\n  )"
    else:
        client = {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]
        call = f'{client}(\n    base_url="{base_url}",\n    default_headers={headers},\n  )'
    text = (
        f"the one change, in your {provider} client:\n\n  {call}\n\n"
        "the key is shown this once; the gateway runs with `apprentice serve`"
    )
    return SdkChange(base_url=base_url, header=f"x-apprentice-key: {key}", text=text)
