"""What the command line must not import: it answers at once, whatever is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "dagster", "mlflow", "polars", "duckdb", "deltalake", "pyarrow", "transformers")
DECLARED = "tasks: [{name: classify_ticket}]\n"


def loaded(program: str, home: Path, configuration: str = "") -> tuple[set[str], str]:
    """The heavy modules a fresh process has loaded after `program`, and what it printed."""
    home.mkdir(exist_ok=True)
    file = home / "apprentice.yaml"
    file.write_text(configuration)
    heavy = (*HEAVY, "sqlalchemy")
    report = f"import sys; print(*[m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"],
        env=os.environ
        | {
            "PYTHONPATH": str(REPOSITORY),
            "APPRENTICE_HOME": str(home / "home"),
            "APPRENTICE_CONFIG": str(file),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split()), done.stdout


def test_importing_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("import apprentice_pipeline.cli.main", tmp_path)[0] == set()


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("import apprentice_pipeline", tmp_path)[0] == set()


@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = f"from apprentice_pipeline.cli.main import main; assert main({arguments}) == 0"
    found, printed = loaded(program, tmp_path)
    assert found == set()
    assert "Usage: apprentice" in printed


@pytest.mark.parametrize("configuration", ["", DECLARED], ids=["no task", "a declared task"])
@pytest.mark.parametrize("command", ["status", "report", "capture status", "key list"])
def test_what_a_person_asks_first_imports_only_the_state_database(
    command: str, configuration: str, tmp_path: Path
) -> None:
    program = f"from apprentice_pipeline.cli.main import main; assert main({command.split()}) == 0"
    found, printed = loaded(program, tmp_path, configuration)
    assert found == {"sqlalchemy"}
    assert printed
