"""Everything a process works with, opened from settings.

Belongs here: folders, keys, the order of opening. Does not: any operation on what is opened.
Promise: opening is quick (no Arrow, Polars, DuckDB or Delta is imported) and safe in many
processes at once.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import StorageFull, StoreError
from apprentice_pipeline.settings import Home, Settings
from apprentice_pipeline.store.key_changes import KeyChanges
from apprentice_pipeline.store.lake import Lake
from apprentice_pipeline.vault import Vault

if TYPE_CHECKING:
    from apprentice_pipeline.store.state import State


@dataclass(frozen=True, slots=True)
class Workspace:
    """Settings and the stores they name, open."""

    settings: Settings
    home: Home
    config: Config
    vault: Vault
    state: State
    lake: Lake

    @classmethod
    def open(cls, settings: Settings) -> Workspace:
        """Creates what is missing (folders 0700, master key, state database) and opens the rest.

        Raises: StoreError, StorageFull, KeyMissing, MasterKeyChanged, each with its remedy.
        """
        from apprentice_pipeline.store.state import State

        home, section = settings.home, settings.config.store
        _create_folders(home)
        url = section.state_url or f"sqlite:///{quote(str(home.state))}"
        state = State.open(url, KeyChanges(home.key_changes).advance)
        try:
            vault = _open_vault(settings, state)
        except BaseException:
            state.close()
            raise
        return cls(
            settings=settings,
            home=home,
            config=settings.config,
            vault=vault,
            state=state,
            lake=Lake(section.lake_uri or str(home.lake), section.lake_options),
        )

    def close(self) -> None:
        """Gives the state database's connections back."""
        self.state.close()


def _open_vault(settings: Settings, state: State) -> Vault:
    from apprentice_pipeline.store.master_key import load_master_key

    home, keys = settings.home, state.data_keys
    try:
        has_data = any(home.lake.iterdir())
        master = load_master_key(settings.master_key, home.keys, keys, has_data=has_data)
    except OSError as error:
        raise _mapped(error, home.keys) from None
    if settings.master_key is not None:
        return Vault(master, keys)
    return Vault(master, keys, lambda: load_master_key(None, home.keys, keys, has_data=True))


def _create_folders(home: Home) -> None:
    folders = (
        home.root,
        home.spool,
        home.lake,
        home.keys,
        home.corpora,
        home.work,
        home.artifacts,
        home.mlflow,
        home.dagster,
        home.run,
    )
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _mapped(error, folder) from None


def _mapped(error: OSError, folder: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no room to create {folder}", remedy="free space on that disk")
    return StoreError(
        f"cannot create {folder}: {error.strerror}",
        remedy="set APPRENTICE_HOME to a folder this user may write to",
    )
