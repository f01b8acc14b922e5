"""The trade-off in one picture: what a method costs against how far from retraining it ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from secure_fu.privacy import Interval
from secure_fu.report.canvas import WIDTH, Picture, drawing, new_figure, picture
from secure_fu.report.style import INK, MUTED

__all__ = ["Curve", "Panel", "Point", "spread_apart", "trade_off"]

# Colours of Okabe and Ito, told apart with every common form of colour blindness; the markers say the same.
_KINDS = {
    "exact": ("s", "#0072b2", "exact"),
    "certified": ("D", "#009e73", "certified"),
    "heuristic": ("o", "#d55e00", "heuristic"),
    "peer": ("o", "#cc79a7", "peer: sees every update"),
}
_BASELINE = "#7f7f7f"
_PANEL_HEIGHT, _LEGEND_HEIGHT, _TITLE_HEIGHT = 3.0, 0.62, 0.42  # inches
_LEFT, _LABELS, _GAP, _BELOW = 0.6, 1.12, 0.1, 0.56  # inches: y axis, names on the right, between columns, x axis
_LINE = 0.138  # inches between names
_CUT = 3.0  # how far beyond the outermost points an interval is shown
_ASIDE = 1.05
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_DISTANCES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of a panel.

    Attributes:
        label: name beside it.
        kind: of guarantee, or `peer`.
        cost: client rounds over those of the cheapest retraining, above 0.
        distance: from retraining.
    """

    label: str
    kind: str
    cost: float
    distance: Interval


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A baseline by its length.

    Attributes:
        label: name at its end.
        places: cost and distance, ascending by cost; one place at least.
    """

    label: str
    places: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One task.

    Attributes:
        title: in words.
        points: the rows that cost something.
        nothing: distance of the original model.
        again: distance of one more retraining: nothing can be told from less.
        curves: baselines; what is below them has done better in as many rounds.
    """

    title: str
    points: Sequence[Point]
    nothing: Interval
    again: Interval
    curves: Sequence[Curve]


def spread_apart(wanted: Sequence[float], *, spacing: float, low: float, high: float) -> list[float]:
    """Move values as little as is simple, so that none is nearer to the next than `spacing`; order is kept.

    Args:
        wanted: ascending.
        low, high: bounds; if there is not enough room between them, the spacing shrinks.
    """
    if not wanted:
        return []
    count = len(wanted)
    step = min(spacing, (high - low) / max(1, count - 1))
    placed: list[float] = []
    for value in wanted:
        placed.append(max(value, low, placed[-1] + step if placed else low))
    placed[-1] = min(placed[-1], high)
    for index in range(count - 2, -1, -1):
        placed[index] = min(placed[index], placed[index + 1] - step)
    return placed


def trade_off(panels: Sequence[Panel], *, name: str, title: str) -> Picture:
    """Draw the panels, two beside each other."""
    with drawing():
        columns = min(2, len(panels))
        lines = -(-len(panels) // columns)
        height = lines * _PANEL_HEIGHT + _LEGEND_HEIGHT
        figure = new_figure(height)
        figure.set_layout_engine("none")
        for index, panel in enumerate(panels):
            line, column = divmod(index, columns)
            _draw(figure, panel, line=line, column=column, columns=columns, height=height, first=column == 0)
        _legend(figure, height, any(point.kind == "peer" for panel in panels for point in panel.points))
        told = "; ".join(
            f"{panel.title}: "
            + ", ".join(
                f"{point.label} at {point.cost:.2g} of the cost, {point.distance.value:.2g} away"
                for point in sorted(panel.points, key=lambda point: point.distance.value)
            )
            for panel in panels
        )
        return picture(
            figure,
            name=name,
            title=title,
            caption="Rounds against distance from retraining, both on logarithmic scales; bars are 90 % intervals. "
            "The band is another retraining's own distance: within it nothing can be told.",
            alt=f"Cost against distance from retraining. {told}",
        )


def _draw(figure: Figure, panel: Panel, *, line: int, column: int, columns: int, height: float, first: bool) -> None:
    wide = (WIDTH - _GAP * (columns - 1)) / columns
    left = column * (wide + _GAP) + _LEFT
    top = height - line * _PANEL_HEIGHT - _TITLE_HEIGHT
    bottom = top - (_PANEL_HEIGHT - _TITLE_HEIGHT - _BELOW)
    width = wide - _LEFT - _LABELS
    axes = figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, (top - bottom) / height))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(panel.title, x=-_LEFT / width + 0.02, fontsize=9.5)
    places = [place for curve in panel.curves for place in curve.places]
    costs = [*(point.cost for point in panel.points), *(cost for cost, _ in places)]
    axes.set_xlim(min([*costs, 0.5]) / 1.5, max([*costs, 1.0]) * 1.5)
    ends = [panel.nothing, panel.again, *(point.distance for point in panel.points)]
    middles = [*(end.value for end in ends), *(value for _, value in places)]
    low = min([*middles, *(_known(end.low, end.value) for end in ends)])
    high = max([*middles, *(_known(end.high, end.value) for end in ends)])
    # The interval of two or three seeds can be so wide that nothing else would be seen; it may leave the frame.
    axes.set_ylim(max(low, min(middles) / _CUT) / 1.3, min(high, max(middles) * _CUT) * 1.3)
    _ticks(axes)
    if math.isfinite(panel.again.low):
        axes.axhspan(panel.again.low, panel.again.high, color="#0072b2", alpha=0.13, linewidth=0)
    axes.axhline(panel.nothing.value, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    for curve in panel.curves:
        axes.plot(
            *zip(*curve.places, strict=True),
            color=_BASELINE,
            linewidth=1.2,
            marker="X",
            markersize=4.0,
            zorder=1,
        )
    for point in _side_by_side(panel.points):
        marker, colour, _ = _KINDS[point.kind]
        distance = point.distance
        if math.isfinite(distance.low):
            axes.plot([point.cost] * 2, [distance.low, distance.high], color=colour, linewidth=1.2, zorder=2)
        axes.plot(
            [point.cost],
            [distance.value],
            marker=marker,
            markersize=6.0,
            markeredgecolor=colour,
            markerfacecolor="white" if point.kind == "peer" else colour,
            markeredgewidth=1.4,
            linestyle="none",
            zorder=3,
        )
    _names(axes, panel, tall=top - bottom)
    if first:
        axes.set_ylabel("distance from retraining", fontsize=8.5)
    axes.set_xlabel("rounds over those of the cheapest retraining", fontsize=8.5)


def _side_by_side(points: Sequence[Point]) -> list[Point]:
    """The points, those of one cost moved apart by a little."""
    moved: list[Point] = []
    for cost in sorted({point.cost for point in points}):
        same = sorted((point for point in points if point.cost == cost), key=lambda point: point.distance.value)
        for place, point in enumerate(same):
            moved.append(dataclasses.replace(point, cost=cost * _ASIDE ** (place - (len(same) - 1) / 2.0)))
    return moved


def _known(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _ticks(axes: Axes) -> None:
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis, places in ((axes.xaxis, _TICKS), (axes.yaxis, _DISTANCES)):
        low, high = axis.get_view_interval()
        shown = [place for place in places if low <= place <= high]
        axis.set_major_locator(FixedLocator(shown if len(shown) <= 6 else shown[::2]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(plain)
    axes.grid(axis="both", linewidth=0.5)


def _names(axes: Axes, panel: Panel, *, tall: float) -> None:
    """Names in a column at the right, in the order of the points, each with a thin line to its point."""
    low, high = (math.log(end) for end in axes.get_ylim())
    shown = _side_by_side(panel.points)
    entries = [(point.distance.value, point.cost, point.label, _KINDS[point.kind][1]) for point in shown]
    entries += [(curve.places[-1][1], curve.places[-1][0], curve.label, _BASELINE) for curve in panel.curves]
    entries.append((panel.nothing.value, axes.get_xlim()[1], "do nothing", MUTED))
    entries.sort()
    wanted = [(math.log(value) - low) / (high - low) * tall for value, *_ in entries]
    placed = spread_apart(wanted, spacing=_LINE, low=0.02, high=tall - 0.02)
    for (value, cost, label, colour), place in zip(entries, placed, strict=True):
        axes.annotate(
            label,
            xy=(cost, value),
            xytext=(1.05, place / tall),
            textcoords="axes fraction",
            fontsize=8.0,
            color=INK,
            va="center",
            ha="left",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.7,
                "shrinkA": 1.0,
                "shrinkB": 3.0,
                "relpos": (0.0, 0.5),
            },
        )


def _legend(figure: Figure, height: float, with_peers: bool) -> None:
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            markersize=6.0,
            markeredgecolor=colour,
            markerfacecolor="white" if kind == "peer" else colour,
            markeredgewidth=1.4,
            linestyle="none",
            label=label,
        )
        for kind, (marker, colour, label) in _KINDS.items()
        if with_peers or kind != "peer"
    ]
    handles.append(
        Line2D([], [], color=_BASELINE, marker="X", markersize=4.0, linewidth=1.2, label="baseline, by length")
    )
    handles.append(Line2D([], [], color="#0072b2", alpha=0.3, linewidth=7.0, label="another retraining"))
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.08 / height),
        ncols=3,
        handletextpad=0.5,
        columnspacing=1.8,
    )
