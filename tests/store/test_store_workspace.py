"""The workspace: what opening it makes, costs and refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apprentice_pipeline.errors import KeyMissing, StoreError
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.workspace import Workspace


def test_opening_makes_private_folders_and_keys(tmp_path: Path) -> None:
    workspace = Workspace.open(load_settings({"APPRENTICE_HOME": str(tmp_path / "a b" / "home")}))
    home = workspace.home
    for folder in (home.root, home.spool, home.lake, home.keys, home.artifacts):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert home.state.stat().st_mode & 0o777 == 0o600
    assert (home.keys / "master.key").stat().st_mode & 0o777 == 0o600
    workspace.close()


def test_what_was_sealed_opens_in_the_next_process(tmp_path: Path) -> None:
    settings = load_settings({"APPRENTICE_HOME": str(tmp_path / "home")})
    place = {"tenant": "acme", "namespace": "tickets", "pair_id": "p", "field": "input"}
    first = Workspace.open(settings)
    sealed = first.vault.seal(b"content", **place)
    first.close()
    second = Workspace.open(settings)
    assert second.vault.open(sealed, **place) == b"content"
    second.close()


OPEN = """
import sys
from apprentice_pipeline.settings import load_settings
from apprentice_pipeline.store.workspace import Workspace

workspace = Workspace.open(load_settings({"APPRENTICE_HOME": sys.argv[1]}))
heavy = {"polars", "duckdb", "deltalake", "pyarrow", "torch", "numpy"} & set(sys.modules)
print(sorted(heavy), workspace.vault.fingerprint("acme", "test", b"x").hex())
"""


def test_processes_that_open_at_once_agree_and_load_nothing_heavy(
    tmp_path: Path, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """`status` answers in half a second: nothing heavy may be imported on the way."""
    children = [child(OPEN, tmp_path / "home") for _ in range(4)]
    outputs = []
    for each in children:
        output, errors = each.communicate(timeout=60)
        assert each.returncode == 0, errors
        outputs.append(output)
    assert len(set(outputs)) == 1
    assert outputs[0].startswith("[] ")


def test_importing_the_store_imports_nothing_heavy() -> None:
    modules = ["spool", "drain", "lake", "pairs", "rows", "erasure", "workspace"]
    program = "; ".join(f"import apprentice_pipeline.store.{name}" for name in modules)
    program += "; import sys; print({'polars', 'duckdb', 'deltalake', 'pyarrow', 'sqlalchemy'}"
    program += " & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr


def test_a_home_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as raised:
        Workspace.open(load_settings({"APPRENTICE_HOME": str(tmp_path / "file" / "home")}))
    assert "APPRENTICE_HOME" in raised.value.remedy


def test_a_master_key_file_that_is_damaged_is_reported(tmp_path: Path) -> None:
    settings = load_settings({"APPRENTICE_HOME": str(tmp_path / "home")})
    Workspace.open(settings).close()
    (tmp_path / "home" / "keys" / "master.key").write_bytes(b"short")
    with pytest.raises(KeyMissing):
        Workspace.open(settings)
