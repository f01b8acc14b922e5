"""The pictures of the deletion audit: the model after alone, and before and after together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secure_fu.report.audit.marks import MARKERS, OUTCOME_COLOURS, judged, judged_pairs
from secure_fu.report.audit.result import Audit, Comparison, DeletionFigures, MethodRow, Outcome, PairAttack
from secure_fu.report.audit.words import game_title, is_control, score_title
from secure_fu.report.canvas import Picture, bare, label_rows, new_figure, picture
from secure_fu.report.result import Interval
from secure_fu.report.style import GRID, INK, MUTED
from secure_fu.report.text import interval

__all__ = ["EXCESS", "deletion_gap_picture", "deletion_pair_picture", "stated_tests"]

_ANSWERS = {
    Outcome.PASSED: "equivalent to retraining",
    Outcome.CANNOT_TELL: "neither shown",
    Outcome.LEAK: "different from retraining",
}
EXCESS = "excess of forget accuracy"
"""Its name among the tested figures."""

_CLOSEST = 0.02
"""A margin's axis reaches at least this far to each side."""


def deletion_gap_picture(audit: Audit) -> Picture | None:
    """Forest plot: for each method, every tested gap to retraining with its interval, against the margin."""
    figures = audit.deletion
    if figures is None or not figures.rows:
        return None
    attacks = list(dict.fromkeys(name for row in figures.rows for name in row.after_only))
    figure = new_figure(1.55 + (0.42 + 0.12 * len(attacks)) * len(figures.rows))
    left, right = figure.subplots(1, 2, sharey=True)
    _forest(left, figures, attacks, figures.margin)
    _forest(right, figures, [EXCESS], figures.accuracy_margin, percent=True)
    left.set_title("Area under the attack's curve")
    right.set_title("Accuracy, forgotten less test")
    left.set_xlabel("gap to retraining")
    right.set_xlabel("gap to retraining, in points")
    outcomes = [f"{row.verdict.outcome.value}{', baseline' if row.baseline else ''}" for row in figures.rows]
    label_rows(left, [row.title for row in figures.rows], outcomes)
    marks = [_mark(MARKERS[index], score_title(name)) for index, name in enumerate(attacks)]
    answers = [
        Line2D([], [], color=OUTCOME_COLOURS[outcome], linewidth=3.0, label=label)
        for outcome, label in _ANSWERS.items()
    ]
    margins = Patch(facecolor=GRID, alpha=0.7, label="margin, stated beforehand")
    figure.legend(handles=[*answers, *marks, margins], loc="outside lower center", ncols=3)
    return picture(
        figure,
        name="deletion_gaps",
        title="After the deletion: as after retraining?",
        caption=(
            f"Each mark is a method's figure minus that of retraining, over {figures.runs} runs of the whole "
            f"procedure, with its interval. Right of zero: the forgotten data are recognised better than they should "
            "be; left of it: worse, which is a mark of its own. Equivalent: shown to lie inside the grey margin. "
            "Different counts after a correction for the number of tests."
        ),
        alt="Gaps to retraining. " + "; ".join(_describe(row) for row in figures.rows),
    )


def _forest(
    axes: Axes, figures: DeletionFigures, names: Sequence[str], margin: float, *, percent: bool = False
) -> None:
    axes.axvspan(-margin, margin, color=GRID, alpha=0.7, linewidth=0, zorder=0)
    axes.axvline(0.0, color=MUTED, linewidth=1.0, zorder=1)
    reach = max(1.3 * margin, _CLOSEST)
    for position, row in enumerate(figures.rows):
        tests = stated_tests(row)
        answers = judged(tests, level=figures.level)
        for index, name in enumerate(names):
            if name not in answers:
                continue
            gap, colour = tests[name].gap, OUTCOME_COLOURS[answers[name]]
            _whisker(axes, gap, position + _raised(index, len(names)), colour, MARKERS[0 if percent else index])
            reach = max(reach, abs(gap.low), abs(gap.high))
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda gap, _: _signed(100 * gap if percent else gap)))
    bare(axes)


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:+.3g}"


def _whisker(axes: Axes, figure: Interval, height: float, colour: str, marker: str) -> None:
    axes.plot([figure.low, figure.high], [height, height], color=colour, linewidth=2.0, zorder=2)
    axes.plot(figure.value, height, marker=marker, markersize=6.0, color=colour, zorder=3)


def _raised(index: int, count: int) -> float:
    return 0.22 * (index - (count - 1) / 2)


def deletion_pair_picture(audit: Audit) -> Picture | None:
    """The before/after attack by method, one panel a game; apart, for even exact retraining gives a deletion away."""
    figures = audit.deletion
    if figures is None:
        return None
    rows = [_PairRow("Retraining", _headline(figures.reference, figures), figures.reference)]
    controls_last = sorted(figures.rows, key=is_control)
    rows += [_PairRow(row.title, row.headline, row.pair) for row in controls_last if row.headline]
    games = list(dict.fromkeys(game for row in rows for game in row.headline))
    if not games:
        return None
    figure = new_figure(1.35 + 0.42 * len(rows))
    drawn = list(figure.subplots(1, len(games), sharex=True, sharey=True, squeeze=False).flat)
    low = high = 0.5
    margin = max(attack.margin for row in rows for attack in row.headline.values())
    for axes, game in zip(drawn, games, strict=True):
        axes.axvspan(0.5 - margin, 0.5 + margin, color=GRID, alpha=0.7, linewidth=0, zorder=0)
        axes.axvline(0.5, color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), zorder=1)
        for position, row in enumerate(rows):
            attack = row.headline.get(game)
            if attack is None:
                continue
            answer = dict(zip(row.attacks, judged_pairs(row.attacks, level=figures.level), strict=True))[attack]
            _whisker(axes, attack.auc, position, OUTCOME_COLOURS[answer], MARKERS[0])
            low, high = min(low, attack.auc.low), max(high, attack.auc.high)
        axes.set_title(f"Forgotten, {game_title(game)}")
        axes.set_xlabel("area under the attack's curve")
        bare(axes)
    drawn[0].set_xlim(max(min(low, 0.4) - 0.03, 0.0), min(max(high, 0.7) + 0.03, 1.0))
    drawn[0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    label_rows(drawn[0], [row.title for row in rows], bold=0)
    words = {Outcome.LEAK: "gives the deletion away", Outcome.CANNOT_TELL: "not shown", Outcome.PASSED: "tells nothing"}
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=OUTCOME_COLOURS[outcome], linewidth=3.0, label=label) for outcome, label in words.items()
    ]
    handles.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), label="guessing"))
    handles.append(Patch(facecolor=GRID, alpha=0.7, label="margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    feature = next(iter(rows[-1].headline.values())).feature
    return picture(
        figure,
        name="deletion_pair",
        title="Before and after together: is the deletion given away?",
        caption=(
            "Whoever holds the model from before and the one from after may tell what was deleted. Even exact "
            "retraining gives this away, see the first row; only noise hides it. Judged apart from forgetting, for "
            f"that reason. Shown is the attack that was chosen beforehand: {feature}."
        ),
        alt="Areas of the before/after attack. "
        + "; ".join(
            f"{row.title}: "
            + ", ".join(f"{game_title(game)} {interval(attack.auc)}" for game, attack in row.headline.items())
            for row in rows
        ),
    )


@dataclass(frozen=True)
class _PairRow:
    title: str
    headline: Mapping[str, PairAttack]
    attacks: Sequence[PairAttack]


def _headline(attacks: Sequence[PairAttack], figures: DeletionFigures) -> dict[str, PairAttack]:
    """Of retraining's attacks, those that stand for their game in the rows."""
    chosen = {(game, attack.feature) for row in figures.rows for game, attack in row.headline.items()}
    return {attack.game: attack for attack in attacks if (attack.game, attack.feature) in chosen}


def stated_tests(row: MethodRow) -> dict[str, Comparison]:
    """The figures that a method's verdict rests on, by name."""
    figures = {**row.after_only, EXCESS: row.forget_excess}
    return {name: figure for name, figure in figures.items() if figure.margin is not None}


def _mark(marker: str, label: str) -> Line2D:
    return Line2D([], [], color=INK, marker=marker, markersize=6.0, linestyle="none", label=label)


def _describe(row: MethodRow) -> str:
    figures = ", ".join(f"{score_title(name)} {interval(figure.gap)}" for name, figure in stated_tests(row).items())
    return f"{row.title}: {figures or 'not tested'}; {row.verdict.outcome.value}"
