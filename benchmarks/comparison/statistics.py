"""From the figures of cells to gaps with intervals, one distance from retraining, and a ranking that knows its noise.

The figures of a cell come from several retrainings of one seed, which differ by their noise alone. The first is a row
of the table like any method; the others are the *references*, that all rows are compared with.

Distance from retraining, of one row in one cell: the largest, over the figures, of |gap to the references| / unit.
The largest, because a method that is right in all but one has not done what retraining does, and no other figure
makes up for it. The unit of a figure is what one retraining is away from the others, root mean square over all
retrainings and cells, or the figure's floor if that is more. So a distance of about 2 is retraining's own, the largest
of several standard normals, and 10 means ten times as far off in some figure as another retraining would be.

Rows are compared by the logarithm of the distance, paired by cell: Student's test of the differences, for all pairs,
with Holm's correction (1979). Logarithms, because rows near retraining and rows far from it then spread alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from comparison.figures import FIGURES, IN_DISTANCE, Figure
from secure_fu.privacy import Interval, mean_interval

__all__ = [
    "FAMILY_ERROR",
    "LEVEL",
    "CellFigures",
    "Compared",
    "Ranked",
    "compared",
    "distances",
    "gap",
    "gap_interval",
    "geometric_interval",
    "holm",
    "ranking",
    "units",
    "worst",
]

LEVEL = 0.9
"""Of every interval: a two one-sided test of equivalence at 5 %."""

FAMILY_ERROR = 0.05
"""Chance that a ranking tells any two rows apart that are equal."""

_LEAST_DISTANCE = 0.05  # below the smallest that any table shows; keeps logarithms finite

Values = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class CellFigures:
    """What was measured in one cell.

    Attributes:
        rows: figures by row name; None or absent where a figure does not apply. A row's `output_distance` is its mean
            distance to the references.
        references: figures of the other retrainings.
        pairs: output distance of each pair of retrainings, `retrained` being 0 and the references 1, 2, ....
    """

    rows: Mapping[str, Values]
    references: Sequence[Values]
    pairs: Mapping[tuple[int, int], float]


def _number(value: float | None, figure: Figure) -> float | None:
    if value is None:
        return None
    return math.log(value) if figure.ratio else value


def gap(cell: CellFigures, row: str, figure: Figure) -> float | None:
    """A row's figure minus the mean of the references'; of logarithms for ratios. None where it does not apply."""
    return _gap_to(cell.rows[row], cell.references, figure, _baseline(cell.pairs, range(1, len(cell.references) + 1)))


def _baseline(pairs: Mapping[tuple[int, int], float], chosen: Sequence[int]) -> float | None:
    """Mean output distance among some of the retrainings; None for a single one."""
    values = [pairs[pair] for pair in itertools.combinations(chosen, 2)]
    return sum(values) / len(values) if values else None


def _gap_to(values: Values, references: Sequence[Values], figure: Figure, baseline: float | None) -> float | None:
    own = _number(values.get(figure.name), figure)
    if figure.name == "output_distance":
        return None if own is None or baseline is None else own - baseline
    others = [_number(reference.get(figure.name), figure) for reference in references]
    known = [value for value in others if value is not None]
    if own is None or not known:
        return None
    return own - sum(known) / len(known)


def units(cells: Sequence[CellFigures]) -> dict[str, float]:
    """The unit of each figure in the distance: see the top of this file."""
    found: dict[str, float] = {}
    for figure in IN_DISTANCE:
        squares: list[float] = []
        for cell in cells:
            runs = [cell.rows["retrained"], *cell.references]
            for index, values in enumerate(runs):
                others = [other for other in range(len(runs)) if other != index]
                if figure.name == "output_distance":
                    own = {figure.name: float(np.mean([cell.pairs[_ordered(index, other)] for other in others]))}
                    away = _gap_to(own, (), figure, _baseline(cell.pairs, others))
                else:
                    away = _gap_to(values, [runs[other] for other in others], figure, None)
                if away is not None:
                    squares.append(away * away)
        spread = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
        found[figure.name] = max(spread, figure.floor)
    return found


def _ordered(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def distances(cell: CellFigures, unit: Mapping[str, float]) -> dict[str, float]:
    """Each row's distance from retraining in one cell; at least 0."""
    found = {}
    for row in cell.rows:
        gaps = {figure.name: gap(cell, row, figure) for figure in IN_DISTANCE}
        found[row] = max(abs(value) / unit[name] for name, value in gaps.items() if value is not None)
    return found


def worst(cells: Sequence[CellFigures], row: str, unit: Mapping[str, float]) -> str:
    """The figure in which a row is furthest off: the largest mean of |gap| / unit."""
    away: dict[str, float] = {}
    for figure in IN_DISTANCE:
        gaps = [gap(cell, row, figure) for cell in cells if row in cell.rows]
        known = [abs(value) / unit[figure.name] for value in gaps if value is not None]
        if known:
            away[figure.name] = sum(known) / len(known)
    return max(away, key=away.__getitem__)


def gap_interval(cells: Sequence[CellFigures], row: str, figure: str, *, level: float = LEVEL) -> Interval | None:
    """Mean gap over cells with Student's interval, paired by seed.

    Returns:
        None where no cell has the figure; for a single one, its gap with NaN ends.
    """
    gaps = [gap(cell, row, FIGURES[figure]) for cell in cells if row in cell.rows]
    known = [value for value in gaps if value is not None]
    if len(known) == 1:
        return Interval(value=known[0], low=math.nan, high=math.nan)
    return mean_interval(known, level=level) if known else None


def geometric_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Geometric mean with Student's interval of the logarithms; for a single value, itself with NaN ends."""
    logs = [math.log(max(value, _LEAST_DISTANCE)) for value in values]
    if len(logs) == 1:
        return Interval(value=math.exp(logs[0]), low=math.nan, high=math.nan)
    found = mean_interval(logs, level=level)
    return Interval(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    adjusted = [0.0] * len(values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        running = max(running, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = running
    return adjusted


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One place of a ranking.

    Attributes:
        row: name.
        distance: geometric mean over cells, with its interval.
        groups: letters; two rows that share one are not told apart.
    """

    row: str
    distance: Interval
    groups: str


def ranking(blocks: Sequence[Mapping[str, float]], *, error: float = FAMILY_ERROR) -> list[Ranked]:
    """Rank rows by their distance, nearest first, and group those whose differences are noise.

    Args:
        blocks: distances by row, one mapping a cell; only rows that are in all of them are ranked.
        error: family-wise.

    Returns:
        nearest first. With fewer than two cells every row has the same letter.
    """
    rows = [row for row in blocks[0] if all(row in block for block in blocks)]
    logs = {row: np.log([max(block[row], _LEAST_DISTANCE) for block in blocks]) for row in rows}
    order = sorted(rows, key=lambda row: float(logs[row].mean()))
    pairs = list(itertools.combinations(order, 2))
    adjusted = holm([_paired_p(logs[one], logs[other]) for one, other in pairs])
    apart = {frozenset(pair) for pair, p in zip(pairs, adjusted, strict=True) if p <= error}
    letters = _letters(order, apart)
    return [
        Ranked(
            row=row, distance=geometric_interval([block[row] for block in blocks]), groups="".join(sorted(letters[row]))
        )
        for row in order
    ]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One row's distance against another's, paired by cell.

    Attributes:
        ratio: geometric mean of the row's distance over the other's.
        p: two-sided, of the paired test; 1 for a single cell.
    """

    ratio: float
    p: float


def compared(pairs: Sequence[tuple[float, float]]) -> Compared | None:
    """Compare distances of two rows, one pair a cell; None for no pairs."""
    if not pairs:
        return None
    one, other = (np.log([max(pair[side], _LEAST_DISTANCE) for pair in pairs]) for side in (0, 1))
    return Compared(ratio=float(np.exp((one - other).mean())), p=_paired_p(one, other))


def _paired_p(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    differences = one - other
    if len(differences) < 2:
        return 1.0
    spread = float(differences.std(ddof=1))
    if spread < 1e-12:  # the very same figures, or two floors
        return 1.0 if abs(float(differences.mean())) < 1e-12 else 0.0
    statistic = float(differences.mean()) / (spread / math.sqrt(len(differences)))
    return float(2.0 * stats.t.sf(abs(statistic), len(differences) - 1))


def _letters(order: Sequence[str], apart: set[frozenset[str]]) -> dict[str, set[str]]:
    """A letter for each largest set of rows of which no two are told apart (Bron and Kerbosch 1973)."""
    near = {row: {other for other in order if other != row and frozenset((row, other)) not in apart} for row in order}
    cliques: list[list[str]] = []

    def grow(chosen: list[str], candidates: list[str], excluded: set[str]) -> None:
        if not candidates and not excluded:
            cliques.append(chosen)
        while candidates:
            row = candidates[0]
            grow([*chosen, row], [other for other in candidates if other in near[row]], excluded & near[row])
            candidates = candidates[1:]
            excluded = excluded | {row}

    grow([], list(order), set())
    places = {row: place for place, row in enumerate(order)}
    cliques.sort(key=lambda clique: sorted(places[row] for row in clique))
    letters: dict[str, set[str]] = {row: set() for row in order}
    for index, clique in enumerate(cliques):
        for row in clique:
            letters[row].add(_letter(index))
    return letters


def _letter(index: int) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return alphabet[index] if index < len(alphabet) else alphabet[index % 26].upper()
