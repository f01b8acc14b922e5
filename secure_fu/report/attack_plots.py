"""The pictures of the membership attack: what it could tell, and from which scores."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from secure_fu.report.canvas import Picture, grid_of_panels, percent_axis, picture
from secure_fu.report.result import Attack, Result
from secure_fu.report.style import GRID, MUTED, method_styles
from secure_fu.report.text import interval
from secure_fu.report.verdict import ordered_rows

__all__ = ["LOG_RECORDS", "roc_picture", "scores_picture"]

LOG_RECORDS = 1000
"""From this many non-members on, rates of 1 % rest on ten records or more, and the axes become logarithmic."""


def roc_picture(result: Result) -> Picture | None:
    """ROC curve with its band for every row, forgotten against held-out records; None without an attack."""
    rows = [row for row in ordered_rows(result) if row.name in result.membership]
    if not rows:
        return None
    styles = method_styles(row.name for row in result.rows)
    logarithmic = all((row.non_members or 0) >= LOG_RECORDS for row in rows)
    floor = 1.0 / max(min(row.non_members or 1 for row in rows), 2)
    figure, panels, columns = grid_of_panels(len(rows), height=2.2, below=0.7)
    reference = result.membership.get("retrained")
    for index, (row, axes) in enumerate(zip(rows, panels, strict=True)):
        axes.plot([floor, 1], [floor, 1], color=GRID, linewidth=1.2, zorder=1)
        if reference is not None and row.name != "retrained":
            axes.plot(reference.fpr, reference.tpr, color=MUTED, linewidth=1.1, linestyle=(0, (3, 2)), zorder=2)
        _roc(axes, result.membership[row.name], styles[row.name].colour)
        area = row.membership_auc
        figures = "" if area is None else f"AUC {area.value:.2f} ({area.low:.2f}–{area.high:.2f})"
        axes.set_title(f"{row.name}\n{figures}", fontsize=8.5, fontweight="normal")
        if logarithmic:
            axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
            for scale in (axes.xaxis, axes.yaxis):
                scale.set_major_locator(LogLocator(numticks=4))
                scale.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
                scale.set_minor_locator(NullLocator())
        else:
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            percent_axis(axes, "x", quarters=False)
            percent_axis(axes, "y", quarters=False)
        axes.set_box_aspect(1)
        if index % columns == 0:
            axes.set_ylabel("forgotten records\nrecognised")
        if index >= len(rows) - columns:
            axes.set_xlabel("held-out records\nmistaken")
    figure.legend(
        handles=[
            Line2D([], [], color=MUTED, linewidth=1.1, linestyle=(0, (3, 2)), label="the retrained model"),
            Line2D([], [], color=GRID, linewidth=1.2, label="guessing"),
            Patch(facecolor=MUTED, alpha=0.25, label="pointwise confidence band"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    return picture(
        figure,
        name="membership_roc",
        title="Can an attacker tell that the data were used?",
        caption=(
            "Share of forgotten records that a loss-based attack recognises, against the share of held-out records "
            "that it takes for them. A method should look like the retrained model (dashed), not like guessing."
        ),
        alt="ROC curves; areas under them: " + "; ".join(f"{row.title} {interval(row.membership_auc)}" for row in rows),
    )


def _roc(axes: Axes, attack: Attack, colour: str) -> None:
    if attack.tpr_low is not None and attack.tpr_high is not None:
        axes.fill_between(attack.fpr, attack.tpr_low, attack.tpr_high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    axes.plot(attack.fpr, attack.tpr, color=colour, zorder=3)


def scores_picture(result: Result) -> Picture | None:
    """Histograms of the attack's scores, forgotten over held-out records, for every row; None if none were kept."""
    attacks = {name: attack.histogram for name, attack in result.membership.items() if attack.histogram is not None}
    rows = [row for row in ordered_rows(result) if row.name in attacks]
    if not rows:
        return None
    styles = method_styles(row.name for row in result.rows)
    figure, panels, columns = grid_of_panels(len(rows), height=1.5, below=0.1, shared=False)
    for index, (row, axes) in enumerate(zip(rows, panels, strict=True)):
        histogram = attacks[row.name]
        axes.stairs(_shares(histogram.non_members), histogram.edges, fill=True, color=MUTED, alpha=0.35)
        axes.stairs(_shares(histogram.members), histogram.edges, color=styles[row.name].colour, linewidth=1.6)
        axes.set_title(row.name, fontsize=9, fontweight="normal")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_yticks([])
        axes.set_ylim(bottom=0)
        if index % columns == 0:
            axes.set_ylabel("share")
        if index >= len(rows) - columns:
            axes.set_xlabel("attack score")
    return picture(
        figure,
        name="membership_scores",
        title="What the attacker sees",
        caption=(
            "Scores of forgotten records (line) and of held-out records (grey), each model on a scale of its own: the "
            "more they overlap, the less the attack can tell."
        ),
        alt="Histograms of attack scores, forgotten over held-out records, for " + ", ".join(row.title for row in rows),
    )


def _shares(counts: tuple[int, ...]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
