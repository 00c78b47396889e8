"""Which Python is taken: one that was built with optimisation, of the version that is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apprentice_pipeline.cli import interpreter
from apprentice_pipeline.cli.interpreter import was_optimised

PLAIN = "'--prefix=/home/ada/.pyenv/versions/3.11.7' '--enable-shared'"


@pytest.mark.parametrize(
    ("configured", "prefix", "quick"),
    [
        (PLAIN, "/home/ada/.pyenv/versions/3.11.7", False),
        (PLAIN + " '--enable-optimizations' '--with-lto'", "/home/ada/.pyenv", True),
        ("'--enable-shared' '--prefix=/usr'", "/usr", True),
        ("", "/usr/local", False),
        (None, "C:\\Python311", True),
    ],
)
def test_an_interpreter_tells_how_it_was_built(
    configured: str | None, prefix: str, quick: bool
) -> None:
    assert was_optimised(configured, prefix) is quick


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_one_that_is_taken_has_this_version_and_makes_environments() -> None:
    told = run(sys.executable, interpreter.__file__)
    taken = told.stdout.strip()
    assert told.returncode == 0, told.stderr
    if taken == "python3":
        assert told.stderr == ""
        return
    version = run(taken, "-c", "import ensurepip, sys; print(*sys.version_info[:2])")
    assert version.stdout.split() == [str(part) for part in sys.version_info[:2]], version.stderr
    assert taken in told.stderr
    assert f"PYTHON={sys.executable}" in told.stderr


@pytest.mark.parametrize("folder", ["bin", "with a blank"])
def test_a_program_that_is_none_or_of_another_kind_is_not_taken(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One says no, as another kind of Python does; the other would say yes to anything."""
    name = "python{}.{}".format(*sys.version_info[:2])
    program = tmp_path / folder / name
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexit {0 if ' ' in folder else 1}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert interpreter.quicker() != str(program)


def test_an_interpreter_of_another_kind_says_no() -> None:
    kind = ["cpython-399t-pdp11-linux-gnu", "pdp11"]
    assert run(sys.executable, interpreter.__file__, "--is-optimised", *kind).returncode == 1
