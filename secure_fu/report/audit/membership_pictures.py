"""The pictures of the membership attacks."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from secure_fu.report.attack_plots import LOG_RECORDS
from secure_fu.report.audit.marks import colours_of
from secure_fu.report.audit.result import AttackFigures, Audit, MembershipFigures
from secure_fu.report.audit.words import score_title
from secure_fu.report.canvas import Picture, bare, label_rows, new_figure, percent_axis, picture
from secure_fu.report.style import GRID, MUTED
from secure_fu.report.text import interval

__all__ = ["membership_roc_picture", "membership_scores_picture"]

_SHAKY = 10.0
"""Rates that rest on fewer false alarms than this are shaded."""


def membership_roc_picture(audit: Audit) -> Picture | None:
    """ROC curves of every attack, the chosen one with its band, and the areas under them with intervals."""
    figures = audit.membership
    if figures is None:
        return None
    logarithmic = min(figures.members, figures.non_members) >= LOG_RECORDS
    colours = colours_of(list(figures.attacks), figures.chosen)
    figure = new_figure(3.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
    for name, attack in figures.attacks.items():
        _curve(left, attack, colours[name], chosen=name == figures.chosen)
    _rates(left, figures, logarithmic=logarithmic)
    _areas(right, figures, colours)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), label="guessing")
    ]
    handles.append(Patch(facecolor=colours[figures.chosen], alpha=0.2, label="pointwise confidence band"))
    if logarithmic:
        handles.append(Patch(facecolor=GRID, alpha=0.6, label="fewer than ten false alarms"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return picture(
        figure,
        name="membership_roc",
        title="How well an attacker tells members from non-members",
        caption=(
            "Left: the share of members that an attack recognises, against the share of non-members that it takes for "
            "them. What counts is the left edge, where the attacker is rarely wrong. Right: the area under each curve "
            "with its confidence interval; 0.5 is guessing. The verdict rests on the attack in bold."
        ),
        alt="ROC curves; areas under them: "
        + "; ".join(f"{score_title(name)} {interval(attack.auc)}" for name, attack in figures.attacks.items()),
    )


def _curve(axes: Axes, attack: AttackFigures, colour: str, *, chosen: bool) -> None:
    if chosen:
        axes.fill_between(attack.fpr, attack.low, attack.high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    axes.plot(attack.fpr, attack.tpr, color=colour, linewidth=2.0 if chosen else 1.3, zorder=4 if chosen else 3)


def _rates(axes: Axes, figures: MembershipFigures, *, logarithmic: bool) -> None:
    axes.set_xlabel("non-members mistaken")
    axes.set_ylabel("members recognised")
    axes.set_box_aspect(1)
    if not logarithmic:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), zorder=1)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        percent_axis(axes, "x")
        percent_axis(axes, "y")
        return
    floor = 1.0 / max(figures.members, figures.non_members)
    axes.plot([floor, 1], [floor, 1], color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), zorder=1)
    axes.axvspan(floor, _SHAKY / figures.non_members, color=GRID, alpha=0.6, linewidth=0, zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_major_locator(LogLocator(numticks=6))
        scale.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
        scale.set_minor_locator(NullLocator())


def _areas(axes: Axes, figures: MembershipFigures, colours: dict[str, str]) -> None:
    low, high = 0.5, 0.5
    for position, (name, attack) in enumerate(figures.attacks.items()):
        area = attack.auc
        axes.plot([area.low, area.high], [position, position], color=colours[name], linewidth=2.2, zorder=2)
        axes.plot(area.value, position, marker="o", markersize=6.5, color=colours[name], zorder=3)
        axes.annotate(
            f"{area.value:.2f}",
            (area.value, position),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
        low, high = min(low, area.low), max(high, area.high)
    axes.axvline(0.5, color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), zorder=1)
    room = 0.12 * (high - low) or 0.05
    axes.set_xlim(max(low - room, 0), min(high + room, 1))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.set_xlabel("area under the ROC curve")
    names = list(figures.attacks)
    label_rows(axes, [score_title(name) for name in names], width=16, bold=names.index(figures.chosen))
    bare(axes)


def membership_scores_picture(audit: Audit) -> Picture | None:
    """Histograms of the chosen attack's scores, members over non-members; None if none were kept."""
    figures = audit.membership
    if figures is None or figures.histogram is None:
        return None
    histogram = figures.histogram
    colour = colours_of(list(figures.attacks), figures.chosen)[figures.chosen]
    figure = new_figure(2.6)
    axes = figure.subplots()
    axes.stairs(_shares(histogram.non_members), histogram.edges, fill=True, color=MUTED, alpha=0.35)
    axes.stairs(_shares(histogram.members), histogram.edges, color=colour, linewidth=1.8)
    axes.set_xlabel(f"score of the attack ({score_title(figures.chosen)}): larger speaks for membership")
    axes.set_ylabel("share of records")
    axes.set_yticks([])
    axes.set_ylim(bottom=0)
    figure.legend(
        handles=[
            Line2D([], [], color=colour, label=f"{figures.members:,} members"),
            Patch(facecolor=MUTED, alpha=0.35, label=f"{figures.non_members:,} non-members"),
        ],
        loc="outside lower center",
        ncols=2,
    )
    return picture(
        figure,
        name="membership_scores",
        title="What the attacker sees",
        caption=(
            "How the scores of members and of non-members are spread. The more the two overlap, the less can be told; "
            "records far to the right are the most exposed."
        ),
        alt=f"Histograms of the scores of {score_title(figures.chosen)}, members over non-members",
    )


def _shares(counts: tuple[int, ...]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
