"""Progress bars for a pipeline run: one line a stage, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from apprentice_pipeline.cli.terminal import Terminal


@contextmanager
def bars_if_told(terminal: Terminal) -> Iterator[Callable[[str, int, int], None]]:
    """As `stage_bars`, but nothing is loaded or shown until the first `progress` is told."""
    with ExitStack() as opened:
        bars: list[Callable[[str, int, int, str], None]] = []

        def progress(stage: str, done: int, total: int) -> None:
            if not bars:
                bars.append(opened.enter_context(stage_bars(terminal)))
            bars[0](stage, done, total, "")

        yield progress


@contextmanager
def stage_bars(terminal: Terminal) -> Iterator[Callable[[str, int, int, str], None]]:
    """Yields `progress(stage, done, total, note)`: bars, or a line each quarter off a terminal."""
    import sys

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    shown = sys.stderr.isatty()
    bars = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not shown,
    )
    tasks: dict[str, TaskID] = {}
    said: dict[str, int] = {}

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, note=note)
        bars.update(tasks[stage], completed=done, total=total, note=note)
        quarter = 4 * done // max(1, total)
        if not shown and quarter > said.get(stage, -1):
            said[stage] = quarter
            terminal.say(f"{stage} {done}/{total} {note}".rstrip())

    with bars:
        yield progress
