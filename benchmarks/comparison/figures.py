"""The figures that a model is measured by, and what counts as a difference that matters."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIGURES", "IN_DISTANCE", "Figure"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: its key in the results.
        title: for tables.
        floor: a gap to retraining that nobody would mind, however little retraining itself spreads.
        ratio: whether gaps are of logarithms: a gap of log 2 is twice as much.
        in_distance: whether the distance from retraining counts it.
    """

    name: str
    title: str
    floor: float
    ratio: bool = False
    in_distance: bool = True


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(name="test_accuracy", title="test accuracy", floor=0.01),
        Figure(name="retain_accuracy", title="retain accuracy", floor=0.01),
        Figure(name="forget_accuracy", title="forget accuracy", floor=0.01),
        Figure(name="forget_loss", title="forget loss", floor=0.1, ratio=True, in_distance=False),
        Figure(name="backdoor_success", title="backdoor success", floor=0.01),
        Figure(name="membership_auc", title="membership AUC", floor=0.01),
        Figure(name="output_distance", title="output distance", floor=0.01),
        Figure(name="relearn_steps", title="relearning", floor=0.1, ratio=True),
    )
}
"""Floors: one point for shares, areas and distances between 0 and 1, a tenth for ratios."""

IN_DISTANCE = tuple(figure for figure in FIGURES.values() if figure.in_distance)
