"""The Makefile says what a machine lacks, and exactly how to install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def make(target: str, path: Path) -> subprocess.CompletedProcess[str]:
    """`make TARGET` on a machine whose programs are those in `path`."""
    return subprocess.run(
        [str(path / "make"), target],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with make, sh and id: no browser, no Node, no package manager."""
    for name in ("make", "sh", "id"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "remedy", "test"),
    [
        ("browser", "sudo apt-get install chromium)", "test_gateway_browser.py"),
        ("node", "sudo apt-get install nodejs npm)", "test_conformance_node.py"),
    ],
)
def test_what_cannot_be_installed_is_named_with_the_test_that_needs_it(
    bare: Path, target: str, remedy: str, test: str
) -> None:
    done = make(target, bare)
    assert done.returncode == 0, "the rest of the suite is not held up"
    assert remedy in done.stderr
    assert test in done.stderr


def test_a_node_that_is_too_old_is_refused_like_none(bare: Path) -> None:
    for name, text in {"npm": "#!/bin/sh\n", "node": "#!/bin/sh\nexit 1\n"}.items():
        (bare / name).write_text(text)
        (bare / name).chmod(0o755)
    assert "Node 20 or newer" in make("node", bare).stderr
