"""Before the first call: `init`, `doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from apprentice_pipeline.cli.terminal import json_option, table, terminal
from apprentice_pipeline.errors import UsageError


@click.command()
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
def init(force: bool) -> None:
    """Writes a commented apprentice.yaml."""
    from apprentice_pipeline.cli.template import TEMPLATE

    file = Path("apprentice.yaml")
    if file.exists() and not force:
        raise UsageError(f"{file} exists", remedy="edit it, or replace it with `--force`")
    file.write_text(TEMPLATE, encoding="utf-8")
    terminal().result(
        {"path": str(file)},
        f"wrote {file}\nnext: `apprentice capture --provider openai --as my-app --namespace NAME`",
    )


@click.command()
@json_option
def doctor() -> None:
    """What is missing on this machine, each with its remedy."""
    from apprentice_pipeline.cli.checkup import examine

    findings = examine()
    document = {
        "ok": all(finding.ok for finding in findings if finding.required),
        "findings": [finding.to_dict() for finding in findings],
    }
    rows = [
        ("ok" if f.ok else "MISSING" if f.required else "—", f.what, f.detail) for f in findings
    ]
    text = table(["", "what", "detail"], rows)
    remedies = [f"  → {f.what}: {f.remedy}" for f in findings if not f.ok and f.remedy]
    terminal().result(document, "\n".join([text, *remedies]))
    if not document["ok"]:
        click.get_current_context().exit(1)
