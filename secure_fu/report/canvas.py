"""Figures that draw to PNG in memory: matplotlib's object interface, no pyplot, no window, no user's style."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secure_fu.report.style import GRID, INK, MUTED

__all__ = [
    "WIDTH",
    "Picture",
    "bare",
    "drawing",
    "grid_of_panels",
    "label_rows",
    "new_figure",
    "percent_axis",
    "picture",
]

WIDTH = 7.4
"""Width of every figure in inches; heights follow from the number of rows."""

_DPI = 160
_LABEL_WIDTH = 26

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.dpi": _DPI,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.bbox": "standard",
    "savefig.dpi": _DPI,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9.0,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.0,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure: ``name`` is its file name without suffix, ``alt`` says in words what it shows."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the house style whatever the user's matplotlibrc says; the settings are put back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(height: float) -> Figure:
    """An empty figure of the common width; ``height`` is in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Figure, *, name: str, title: str, caption: str, alt: str) -> Picture:
    """Draw the figure to PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Title": title, "Description": alt})
    return Picture(name=name, title=title, caption=caption, alt=alt, png=buffer.getvalue())


def percent_axis(axes: Axes, axis: Literal["x", "y"], *, quarters: bool = True) -> None:
    """Label an axis of fractions from 0 to 100 %, by quarters or by halves."""
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    chosen.set_ticks([0.0, 0.25, 0.5, 0.75, 1.0] if quarters else [0.0, 0.5, 1.0])


def bare(axes: Axes) -> None:
    """Leave out the frame at the side where rows stand, and the tick marks there."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def label_rows(
    axes: Axes,
    labels: Sequence[str],
    details: Sequence[str] | None = None,
    *,
    width: int = _LABEL_WIDTH,
    bold: int | None = None,
) -> None:
    """Name the rows of a chart whose rows stand at 0, 1, ... from the top, with a smaller line under each name.

    Names are broken after ``width`` letters; row ``bold`` stands out.
    """
    axes.set_yticks(range(len(labels)), ["" for _ in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    for position, label in enumerate(labels):
        lines = textwrap.wrap(label, width) or [label]
        weight = "bold" if position == bold else "normal"
        _row_label(axes, position, "\n".join(lines), 5.5 if details else 0.0, INK, 9.5, weight)
        if details:
            _row_label(axes, position, details[position], -1.0 - 5.5 * len(lines), MUTED, 8.5, "normal")


def _row_label(axes: Axes, position: int, text: str, raised: float, colour: str, size: float, weight: str) -> None:
    axes.annotate(
        text,
        (0, position),
        (-7, raised),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="center",
        color=colour,
        fontsize=size,
        fontweight=weight,
        annotation_clip=False,
    )


def grid_of_panels(count: int, *, height: float, below: float, shared: bool = True) -> tuple[Figure, list[Axes], int]:
    """A figure with ``count`` panels, filled row by row, and the number of its columns; shared: both axes are.

    ``height`` is that of one panel, ``below`` what the legend under them needs, both in inches.
    """
    columns = min(count, 4 if count == 4 or count > 6 else 3)
    lines = -(-count // columns)
    figure = new_figure(lines * height + below)
    panels = list(figure.subplots(lines, columns, sharex=shared, sharey=shared, squeeze=False).flat)
    for spare in panels[count:]:
        spare.set_visible(False)
    for panel in panels[max(0, count - columns) : count]:
        panel.tick_params(labelbottom=True)
    return figure, panels[:count], columns
