"""How commands speak: one JSON document or text on stdout, everything else on stderr.

Belongs here: output, tables, the mapping of errors to exit codes.
Does not: what any command does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from apprentice_pipeline.errors import ApprenticeError, UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where a command's words go; `as_json` is the `--json` switch."""

    as_json: bool

    def result(self, document: Any, text: str) -> None:
        """The command's answer: `document` under `--json`, else `text`. Called once."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False, default=str))
        else:
            click.echo(text)

    def say(self, message: str) -> None:
        """A message for the person watching, on stderr."""
        click.echo(message, err=True)


def json_option(command: Command) -> Command:
    """Adds `--json`: one JSON document on stdout, nothing else there."""

    def store(context: click.Context, _: click.Parameter, value: bool) -> None:
        root = context.find_root()
        root.obj = Terminal(as_json=value or (root.obj is not None and root.obj.as_json))

    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=store,
        help="One JSON document on stdout, nothing else there.",
    )(command)


def terminal() -> Terminal:
    """The running command's terminal."""
    found = click.get_current_context().find_root().obj
    return found if isinstance(found, Terminal) else Terminal(as_json=False)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> str:
    """A plain text table, aligned; fits pipes and terminals alike."""
    cells = [[str(value) for value in row] for row in rows]
    widths = [
        max([len(heading), *(len(row[i]) for row in cells)]) for i, heading in enumerate(headings)
    ]
    lines = [title] if title else []
    lines.append("  ".join(h.ljust(w) for h, w in zip(headings, widths, strict=True)).rstrip())
    lines.append("  ".join("─" * w for w in widths))
    lines += [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return "\n".join(lines)


def report_failure(error: ApprenticeError, *, as_json: bool, exit_code: int | None = None) -> int:
    """Prints the cause and the remedy; returns the exit status (2 usage, else 1)."""
    if as_json:
        document = {
            "error": type(error).__name__,
            "message": error.message,
            "remedy": error.remedy,
        }
        click.echo(json.dumps(document, ensure_ascii=False))
    click.echo(f"error: {error.message}", err=True)
    if error.remedy:
        click.echo(f"  → {error.remedy}", err=True)
    return exit_code or (2 if isinstance(error, UsageError) else 1)
