"""The picture of the rounds: training with the data, then every branch after the deletion request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from secure_fu.report.canvas import Picture, new_figure, percent_axis, picture
from secure_fu.report.result import CurvePoint, Result, Row
from secure_fu.report.style import GRID, INK, MUTED, method_styles
from secure_fu.report.text import clients_in_words, percent
from secure_fu.report.verdict import ordered_rows

__all__ = ["curves_picture"]

_COLUMNS = 3


def curves_picture(result: Result) -> Picture | None:
    """Test accuracy and backdoor success by round, the original above and one small panel for each branch below it.

    Rounds of a branch are counted from its own first point. None if the run has no curves.
    """
    rows = [row for row in ordered_rows(result) if len(result.curves.get(row.name, ())) > 1]
    if not rows:
        return None
    branches = [row for row in rows if row.name != "original"]
    lines = -(-len(branches) // _COLUMNS)
    has_original = len(branches) < len(rows)
    figure = new_figure(2.5 * has_original + 1.75 * lines + 0.4)
    specification = figure.add_gridspec(
        lines + has_original, _COLUMNS, height_ratios=[1.35] * has_original + [1.0] * lines
    )
    if has_original:
        _training_panel(figure.add_subplot(specification[0, :]), result)
    reference = result.row("retrained")
    for index, row in enumerate(branches):
        axes = figure.add_subplot(specification[has_original + index // _COLUMNS, index % _COLUMNS])
        _branch_panel(axes, result, row, reference)
        if index % _COLUMNS:
            axes.tick_params(labelleft=False)
        if index >= len(branches) - _COLUMNS:
            axes.set_xlabel("rounds since the request")
    _legend(figure, result)
    return picture(
        figure,
        name="curves",
        title="Round by round",
        caption=(
            "Above: training with the data that are later to be forgotten. Below: each branch, counted from the "
            "request; the thin dotted lines are where retraining ends."
        ),
        alt="Curves by round. " + "; ".join(_describe(row.title, result.curves[row.name]) for row in rows),
    )


def _training_panel(axes: Axes, result: Result) -> None:
    points = result.curves["original"]
    colour = method_styles(["original"])["original"].colour
    rounds = [point.round for point in points]
    _lines(axes, points, rounds, colour)
    axes.set_title("Original: training with all data", pad=22)
    axes.set_xlabel("round")
    joined = result.scenario.joined_at_round
    named = result.scenario.forgotten_clients
    who = clients_in_words(named) if named else "forgotten data"
    if joined is not None and rounds[0] < joined < rounds[-1]:
        axes.axvspan(joined, rounds[-1], color=GRID, alpha=0.45, linewidth=0)
        axes.axvline(joined, color=MUTED, linewidth=1.0)
        late = joined - rounds[0] > (rounds[-1] - rounds[0]) / 2
        _mark(axes, joined, f"{who}: joins at round {joined}", "right" if late else "left")
    axes.axvline(rounds[-1], color=MUTED, linewidth=1.0)
    _mark(axes, rounds[-1], "deletion request", "right")
    axes.set_xlim(rounds[0], rounds[-1] + 0.11 * (rounds[-1] - rounds[0]))
    _frame(axes)


def _branch_panel(axes: Axes, result: Result, row: Row, reference: Row | None) -> None:
    points = result.curves[row.name]
    rounds = [point.round - points[0].round for point in points]
    if reference is not None:
        for value in (reference.test_accuracy, reference.backdoor_success):
            if value is not None:
                axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    colour = method_styles(other.name for other in result.rows)[row.name].colour
    _lines(axes, points, rounds, colour)
    axes.set_title(f"{row.name}, {row.rounds} rounds", fontsize=9.5)
    axes.set_xlim(0, rounds[-1] * 1.3)
    axes.set_xticks([tick for tick in MaxNLocator(4, integer=True).tick_values(0, rounds[-1]) if tick <= rounds[-1]])
    _frame(axes)


def _lines(axes: Axes, points: Sequence[CurvePoint], rounds: Sequence[int], colour: str) -> None:
    backdoor = [point.backdoor_success for point in points]
    curves: list[tuple[list[float], str]] = [([point.test_accuracy for point in points], "-")]
    measured = [value for value in backdoor if value is not None]
    if len(measured) == len(points):
        curves.append((measured, "--"))
    ends = _apart([values[-1] for values, _ in curves], 0.13)
    for (values, dash), height in zip(curves, ends, strict=True):
        axes.plot(rounds, values, color=colour, linestyle=dash, zorder=3)
        axes.annotate(
            percent(values[-1]),
            (rounds[-1], height),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            zorder=4,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Label heights, moved apart where two of them would overlap."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= gap:
        return list(heights)
    middle = min(max((heights[0] + heights[1]) / 2, gap / 2), 1 - gap / 2)
    half = gap / 2 if heights[0] >= heights[1] else -gap / 2
    return [middle + half, middle - half]


def _frame(axes: Axes) -> None:
    percent_axis(axes, "y")
    axes.set_ylim(-0.09, 1.06)
    axes.grid(axis="y")


def _mark(axes: Axes, at: float, text: str, side: Literal["left", "right"]) -> None:
    above = axes.get_xaxis_transform()
    axes.text(at, 1.03, text, transform=above, ha=side, va="bottom", fontsize=8.5, color=INK)


def _legend(figure: Figure, result: Result) -> None:
    handles = [Line2D([], [], color=MUTED, linestyle="-", label="test accuracy")]
    if result.scenario.backdoor is not None:
        handles.append(Line2D([], [], color=MUTED, linestyle="--", label="backdoor success"))
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (1, 2)), linewidth=1.0, label="retrained model"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _describe(title: str, points: Sequence[CurvePoint]) -> str:
    first, last = points[0], points[-1]
    text = f"{title}: accuracy from {percent(first.test_accuracy)} to {percent(last.test_accuracy)}"
    if first.backdoor_success is not None and last.backdoor_success is not None:
        text += f", backdoor from {percent(first.backdoor_success)} to {percent(last.backdoor_success)}"
    return text
