"""Small plots as Markdown images, for asset metadata. Counts and scores only."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

COLOUR = "#3b6fb6"


def line(points: Sequence[tuple[float, float]], *, title: str, x: str, y: str) -> str:
    """A line through `points` as a Markdown image."""
    figure, axes = _figure(title, x, y)
    axes.plot([p[0] for p in points], [p[1] for p in points], color=COLOUR)
    return _markdown(figure, title)


def bars(values: Sequence[tuple[str, float]], *, title: str, x: str, y: str) -> str:
    """One bar a label as a Markdown image."""
    figure, axes = _figure(title, x, y)
    axes.bar([label for label, _ in values], [value for _, value in values], color=COLOUR)
    axes.tick_params(axis="x", labelrotation=60 if len(values) > 6 else 0)
    return _markdown(figure, title)


def _figure(title: str, x: str, y: str):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _markdown(figure: Figure, title: str) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    return f"![{title}](data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()})"
