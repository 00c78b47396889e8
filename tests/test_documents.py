"""The documents say what is true: commands exist, links lead somewhere, the tree is the tree."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from apprentice_pipeline.cli.main import apprentice

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data" / "README.md",
    ROOT / "apprentice_pipeline" / "demo" / "base" / "README.md",
]
READ = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))


def named_commands(text: str) -> Iterator[list[str]]:
    """Every `apprentice …` in a code span or at a prompt."""
    spans = re.findall(r"`apprentice ([^`\n]+)`", text)
    prompts = re.findall(r"^\$ apprentice ([^\n#]+)", text, re.MULTILINE)
    for found in (*spans, *prompts):
        yield shlex.split(found.replace("…", ""))


def refused(words: list[str]) -> str:
    """Why the command line does not know these words; "" when it does."""
    command: click.Command = apprentice
    for place, word in enumerate(words):
        if not isinstance(command, click.Group):
            break
        if word.startswith("-"):
            break
        if word not in command.commands:
            return f"no command {word!r}"
        command = command.commands[word]
        words = [*words[:place], *words[place + 1 :]] if place else words
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word not in known]
    return f"no option {unknown[0]!r}" if unknown else ""


@READ
def test_every_command_that_is_named_exists_with_its_options(document: Path) -> None:
    found = {
        " ".join(words): why
        for words in named_commands(document.read_text(encoding="utf-8"))
        if (why := refused(words))
    }
    assert found == {}


@READ
def test_every_local_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [
        link for link in links if "://" not in link and not (document.parent / link).exists()
    ]
    assert missing == []


@READ
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z-]+)", text))
    named |= set(re.findall(r"^\$ make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets


@READ
def test_the_python_shown_is_python(document: Path) -> None:
    for block in re.findall(
        r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL
    ):
        ast.parse(block)


def test_the_tree_in_the_readme_names_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"## The tree\n```text\n(.*?)```", text, re.DOTALL)
    inside = set(re.findall(r"\b([a-z_]+(?:/|\.py))(?=\s)", tree)) - {"apprentice_pipeline/"}
    package = ROOT / "apprentice_pipeline"
    absent = {name for name in inside if not ((package / name).exists() or (ROOT / name).exists())}
    assert absent == set()
    folders = {f"{folder.parent.name}/" for folder in package.glob("*/__init__.py")}
    assert folders - inside == set()


def test_the_base_url_in_the_readme_is_the_one_that_capture_prints() -> None:
    from apprentice_pipeline.config import Gateway
    from apprentice_pipeline.stages.access import sdk_change

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'base_url="{sdk_change(Gateway(), "openai", "ak_").base_url}"' in text


def test_the_scenario_in_the_documents_runs_and_shows_the_drift(tmp_path: Path) -> None:
    from apprentice_pipeline.stages.simulation import simulate_file, text

    document = (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    (scenario,) = re.findall(r"```yaml\n(# scenario\.yaml\n.*?)```", document, re.DOTALL)
    file = tmp_path / "scenario.yaml"
    file.write_text(scenario, encoding="utf-8")
    days = simulate_file(file)
    assert len(days) == 25
    assert {day.phase for day in days} == {"collect", "serve", "shadow"}
    assert any("DriftDetected" in event for day in days for event in day.events)
    assert len(text(days).splitlines()) == 26
