"""A disk without room under Dagster or MLflow: exit 1, what is full and what to do, no traceback.

The disks are real ones of a few kilobytes, mounted under one folder of a home: a test is skipped
where this process may not mount.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import StorageFull
from apprentice_pipeline.registry import Registry

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:mlflow\..*")
Mount = Callable[[Path, str], Path]
TRAINABLE = "distill: {threshold: 20}\nkscore: {min_holdout: 1}\nverify: {fraction: 0}\n"


@pytest.fixture
def mount() -> Iterator[Mount]:
    """`mount(folder, "64k")`: makes the folder a disk of that size."""
    mounted: list[Path] = []

    def make(folder: Path, size: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this process may not mount a disk")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leaves no byte of the folder's disk free."""
    with suppress(OSError), open(folder / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))


def assert_says_full(outcome: Any) -> None:
    assert outcome.status == 1
    assert outcome.document["error"] == "StorageFull"
    assert "full" in outcome.document["message"]
    assert "free space" in outcome.document["remedy"]
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("size", ["64k", "600k"])
def test_a_disk_too_small_for_dagsters_records(
    size: str, home: Any, captured: Any, mount: Mount, run_apprentice: Any
) -> None:
    home.configure(TRAINABLE)
    with home.open() as workspace:
        captured(workspace, 60)
    mount(home.root / "dagster", size)
    assert_says_full(run_apprentice(home, "distill", "--namespace", "tickets", "--json"))


def test_a_disk_that_fills_up_under_dagsters_records(
    home: Any, captured: Any, mount: Mount, run_apprentice: Any
) -> None:
    """With no byte free SQLite cannot even make its shared index."""
    from apprentice_pipeline.orchestration.runs import instance

    home.configure(TRAINABLE)
    with home.open() as workspace:
        captured(workspace, 60)
    folder = mount(home.root / "dagster", "8m")
    with instance(folder) as opened:
        opened.add_dynamic_partitions("streams", ["default.other"])
    fill(folder)
    assert_says_full(run_apprentice(home, "distill", "--namespace", "tickets", "--json"))


@pytest.mark.parametrize("size", ["16k", "256k"])
def test_a_disk_too_small_for_the_registry(size: str, mount: Mount, tmp_path: Path) -> None:
    folder = mount(tmp_path / "mlflow", size)
    kolm = tmp_path / "tickets.kolm"
    kolm.write_bytes(b"PK")
    with pytest.raises(StorageFull, match="its disk is full") as raised:
        Registry.at(folder).register(
            tenant="acme",
            namespace="tickets",
            kolm=kolm,
            digest="0" * 64,
            k=0.9,
            receipt_head="ab" * 32,
            metrics={},
            params={},
            loss_curve=[],
            created_at_us=1,
        )
    assert "free space" in raised.value.remedy


def test_a_disk_that_fills_up_under_the_registry(
    home: Any, mount: Mount, run_apprentice: Any
) -> None:
    folder = mount(home.root / "mlflow", "8m")
    assert Registry.at(folder).register(
        tenant="default",
        namespace="tickets",
        kolm=_kolm(home.root),
        digest="0" * 64,
        k=0.9,
        receipt_head="ab" * 32,
        metrics={},
        params={},
        loss_curve=[],
        created_at_us=1,
    )
    fill(folder)
    assert_says_full(run_apprentice(home, "promote", "--namespace", "tickets", "--json"))


def _kolm(folder: Path) -> Path:
    file = folder / "tickets.kolm"
    file.write_bytes(os.urandom(64))
    return file
