"""The pictures of what came out, what it cost in privacy, and what travelled."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secure_fu.report.canvas import Picture, bare, label_rows, new_figure, percent_axis, picture
from secure_fu.report.result import Guarantee, Result, Row
from secure_fu.report.style import INK, MUTED, WARNING, method_styles
from secure_fu.report.text import byte_count, decimal, percent
from secure_fu.report.verdict import ordered_rows

__all__ = ["epsilon_picture", "outcome_picture", "traffic_picture"]

_GUARANTEES = {
    Guarantee.NONE: "before the deletion",
    Guarantee.EXACT: "exact",
    Guarantee.CERTIFIED: "certified",
    Guarantee.HEURISTIC: "heuristic",
    Guarantee.BASELINE: "baseline",
}

_VISIBLE = 0.02
"""A spread below this part of its bar would only blot the end of it."""

# phase, marker, hollow, label
_PHASES = (
    ("training", "o", True, "training"),
    ("unlearning", "^", True, "unlearning"),
    ("training+unlearning", "D", False, "both together"),
)


def outcome_picture(result: Result) -> Picture:
    """Test accuracy and backdoor success (accuracy on the forgotten records without a backdoor), as bars by row."""
    rows = ordered_rows(result)
    backdoor = all(row.backdoor_success is not None for row in rows)
    influence = [row.backdoor_success if backdoor else row.forget_accuracy for row in rows]
    figure = new_figure(1.05 + 0.5 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, rows, [row.test_accuracy for row in rows])
    _bars(right, rows, influence)
    left.set_title("Test accuracy")
    right.set_title("Backdoor success" if backdoor else "Accuracy on forgotten data")
    label_rows(left, [row.title for row in rows], [_GUARANTEES[row.guarantee] for row in rows])
    figure.legend(
        handles=[Line2D([], [], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="the retrained model")],
        loc="outside lower right",
    )
    what = "backdoor success" if backdoor else "accuracy on the forgotten records"
    return picture(
        figure,
        name="outcome",
        title="Before, retrained, and after each method",
        caption=(
            "The retrained model never saw the data: the dashed line is where a method should arrive. "
            + ("The backdoor is a trigger that only the forgotten records carry; it should stop working." * backdoor)
        ).strip(),
        alt=f"Bars of test accuracy and {what}: "
        + "; ".join(
            f"{row.title} {percent(row.test_accuracy)} and {percent(value)}"
            for row, value in zip(rows, influence, strict=True)
        ),
    )


def _bars(axes: Axes, rows: Sequence[Row], values: Sequence[float | None]) -> None:
    styles = method_styles(row.name for row in rows)
    for position, (row, value) in enumerate(zip(rows, values, strict=True)):
        baseline = row.guarantee is Guarantee.BASELINE
        axes.barh(
            position,
            value or 0.0,
            height=0.56,
            color="white" if baseline else styles[row.name].colour,
            edgecolor=styles[row.name].colour,
            hatch="////" if baseline else None,
            linewidth=1.0,
        )
        axes.text(
            (value or 0.0) + 0.015,
            position,
            percent(value),
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=4,
        )
        if row.name == "retrained" and value is not None:
            axes.axvline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, zorder=3)
    axes.set_xlim(0, 1.2)
    percent_axis(axes, "x")
    bare(axes)


def epsilon_picture(result: Result) -> Picture | None:
    """Epsilon of one unit by phase, forgotten beside retained, against the budget; None if nothing was charged."""
    rows = [row for row in ordered_rows(result) if row.epsilon]
    if not rows:
        return None
    budget = result.privacy.budget_epsilon
    unit = result.privacy.unit
    figure = new_figure(1.3 + 0.42 * len(rows))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    colours = {name: style.colour for name, style in method_styles(row.name for row in result.rows).items()}
    largest = budget or 0.0
    described: list[str] = []
    for subject, axes in zip(("forgotten", "retained"), panels, strict=True):
        for position, row in enumerate(rows):
            values = _epsilon_by_phase(row, subject)
            _epsilon_line(
                axes, position, values, colours[row.name], claimed=any(c.subject == subject for c in row.epsilon)
            )
            largest = max([largest, *values.values()])
            if values:
                phases = ", ".join(f"{phase} {decimal(value)}" for phase, value in values.items())
                described.append(f"{row.title}, {subject}: {phases}")
        axes.set_title(f"One {subject} {unit}")
        axes.set_xlabel("epsilon")
        bare(axes)
        if budget is not None:
            axes.axvline(budget, color=WARNING, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    panels[0].set_xlim(0, 1.2 * largest or 1.0)
    label_rows(panels[0], [row.title for row in rows])
    handles = [
        Line2D(
            [],
            [],
            color=MUTED,
            marker=marker,
            markerfacecolor="white" if hollow else MUTED,
            linestyle="none",
            label=label,
        )
        for _, marker, hollow, label in _PHASES
    ]
    if budget is not None:
        handles.append(Line2D([], [], color=WARNING, linestyle=(0, (4, 3)), linewidth=1.2, label=f"budget {budget:g}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.4, handletextpad=0.5)
    return picture(
        figure,
        name="epsilon",
        title="Privacy spent, by phase",
        caption=(
            f"Epsilon at delta {result.privacy.delta:g} for one {unit}, from the view of somebody who sees every "
            "release. Smaller is more private. Each branch is counted beside the original alone; publishing several "
            "branches adds up."
        ),
        alt="Epsilon by phase. " + "; ".join(described),
    )


def _epsilon_by_phase(row: Row, subject: str) -> dict[str, float]:
    known = [phase for phase, *_ in _PHASES]
    claims = [c for c in row.epsilon if c.subject == subject and c.group_size == 1 and c.phase in known]
    if any(claim.view == "every release" for claim in claims):
        claims = [claim for claim in claims if claim.view == "every release"]
    return {claim.phase: claim.value for claim in claims if claim.value is not None}


def _epsilon_line(axes: Axes, position: int, values: dict[str, float], colour: str, *, claimed: bool) -> None:
    if not values or max(values.values()) == 0.0:
        text = "no finite bound" if claimed and not values else "nothing released about it"
        across = axes.get_yaxis_transform()
        axes.text(0.02, position, text, transform=across, va="center", color=MUTED, fontsize=8.5, style="italic")
        return
    top = max(values.values())
    axes.plot([0, top], [position, position], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=2)
    for phase, marker, hollow, _ in _PHASES:
        if phase in values:
            face = "white" if hollow else colour
            axes.plot(
                values[phase],
                position,
                marker=marker,
                markersize=6.5,
                color=colour,
                markerfacecolor=face,
                zorder=3,
                clip_on=False,
            )
    axes.annotate(
        decimal(top),
        (top, position),
        (8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        zorder=4,
    )


def traffic_picture(result: Result) -> Picture | None:
    """Bytes that one client sends and receives, in a round and in a whole branch; None without traffic."""
    rows = [row for row in ordered_rows(result) if any(item.branch == row.name for item in result.traffic)]
    if not rows:
        return None
    colours = {name: style.colour for name, style in method_styles(row.name for row in result.rows).items()}
    figure = new_figure(1.3 + 0.56 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    described: list[str] = []
    for position, row in enumerate(rows):
        rounds = [item for item in result.traffic if item.branch == row.name]
        up = [item.upload_bytes_per_client for item in rounds]
        down = [item.download_bytes_per_client for item in rounds]
        _two_bars(panels[0], position, (median(up), median(down)), colours[row.name], spreads=(up, down))
        _two_bars(panels[1], position, (sum(up), sum(down)), colours[row.name])
        described.append(
            f"{row.title}: {byte_count(median(up))} up and {byte_count(median(down))} down a round, "
            f"{byte_count(sum(up))} up and {byte_count(sum(down))} down in {len(rounds)} rounds"
        )
    for axes, title in zip(panels, ("In one round", "In the whole branch"), strict=True):
        axes.set_title(title)
        axes.set_xlim(0, 1.28 * axes.dataLim.x1)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: byte_count(size)))
        bare(axes)
    label_rows(panels[0], [row.title for row in rows])
    handles = [
        Patch(facecolor=MUTED, edgecolor=MUTED, label="one client sends"),
        Patch(facecolor="white", edgecolor=MUTED, hatch="/////", label="one client receives"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return picture(
        figure,
        name="traffic",
        title="What travelled, per client",
        caption=(
            "Uploads have the same size for every client, whether or not it is the one that leaves. "
            "In one round: the median; a line spans least to most where rounds differ visibly."
        ),
        alt="Bytes per client. " + "; ".join(described),
    )


def _two_bars(
    axes: Axes,
    position: int,
    sizes: tuple[float, float],
    colour: str,
    *,
    spreads: tuple[Sequence[int], Sequence[int]] | None = None,
) -> None:
    for index, size in enumerate(sizes):
        height = position + (-0.19, 0.19)[index]
        face, hatch = ((colour, None), ("white", "/////"))[index]
        axes.barh(height, size, height=0.34, color=face, edgecolor=colour, hatch=hatch, linewidth=1.0)
        end = size
        if spreads is not None and max(spreads[index]) - min(spreads[index]) > _VISIBLE * size:
            end = max(spreads[index])
            span = [min(spreads[index]), end]
            for ink, width in (("white", 4.0), (INK, 1.2)):
                axes.plot(span, [height, height], color=ink, linewidth=width, marker="|", zorder=3)
        axes.annotate(byte_count(size), (end, height), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
