"""All cells of one task and one request, with what the pages and pictures show of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from comparison.figures import FIGURES
from comparison.picture import Curve, Panel, Point
from comparison.statistics import (
    CellFigures,
    Compared,
    compared,
    distances,
    gap_interval,
    geometric_interval,
    ranking,
    units,
)
from comparison.tasks import REQUESTS, Task
from secure_fu.privacy import Interval

__all__ = ["Comparison", "Result", "figures_of"]

Result = Mapping[str, Any]

BASELINES = ("finetune", "scratch")
"""Run at several lengths; one of them stands in the ranking, the others are what methods are held against."""

_SHORT_NAMES = {"retrained": "retraining", "shorter": "cheapest", "original": "do nothing"}


def figures_of(result: Result) -> CellFigures:
    """A cell's results, or its peers', as the statistics want them; rows that were refused are left out."""
    return CellFigures(
        rows={name: row["figures"] for name, row in result["rows"].items() if "figures" in row},
        references=result["references"],
        pairs={(int(pair[0]), int(pair[2])): value for pair, value in result["pairs"].items()},
    )


class Comparison:
    """All cells of one task and one request.

    Args:
        task: what was run.
        request: key of :data:`~comparison.tasks.REQUESTS`.
        results: by seed.
    """

    def __init__(self, task: Task, request: str, results: Mapping[int, Result]) -> None:
        self.task, self.request = task, request
        self.results = dict(sorted(results.items()))
        self.cells = [figures_of(result) for result in self.results.values()]
        self.unit = units(self.cells)
        self.blocks = [distances(cell, self.unit) for cell in self.cells]
        self.ranked = ranking([self.without_lengths(block) for block in self.blocks])
        peers = [result["peers"] for result in self.results.values() if result["peers"]]
        self.peers = [figures_of(entry) for entry in peers if "rows" in entry]
        self.peer_rounds = [entry["rows"] for entry in peers if "rows" in entry]
        self.peers_refused = next((entry["refused"] for entry in peers if "refused" in entry), None)

    @property
    def rows(self) -> list[str]:
        """Rows that some cell has, nearest to retraining first; those that are not in all cells last."""
        placed = [entry.row for entry in self.ranked]
        return placed + sorted({row for block in self.blocks for row in self.without_lengths(block)} - set(placed))

    def without_lengths(self, block: Mapping[str, float]) -> dict[str, float]:
        """Without the baselines at other lengths than the task's own."""
        kept = {f"{name} {self.task.length}" for name in BASELINES}
        return {row: value for row, value in block.items() if row.split()[0] not in BASELINES or row in kept}

    def against(self, row: str, baseline: str) -> Compared | None:
        """How a method's distance compares with that of a baseline in as many rounds; None where there is none."""
        pairs = []
        for result, block in zip(self.results.values(), self.blocks, strict=True):
            if row in block:
                other = f"{baseline} {result['rows'][row]['rounds']}"
                if other in block and other != row:
                    pairs.append((block[row], block[other]))
        return compared(pairs) if len(pairs) == sum(row in block for block in self.blocks) else None

    @property
    def cheapest(self) -> int:
        """Rounds of the cheapest retraining."""
        first = next(iter(self.results.values()))
        return int(first["shorter"]["rounds"])

    def entries(self, row: str) -> list[Mapping[str, Any]]:
        """What each cell knows of a row that was run."""
        return [
            result["rows"][row] for result in self.results.values() if "figures" in result["rows"].get(row, {"": 0})
        ]

    def refusals(self) -> dict[str, str]:
        """Why a method was not run, by name; the first cell's words."""
        found: dict[str, str] = {}
        for result in self.results.values():
            for row, entry in result["rows"].items():
                if "refused" in entry:
                    found.setdefault(row, entry["refused"])
        return found

    def rounds(self, row: str) -> float:
        """Mean over cells."""
        return statistics.mean(entry["rounds"] for entry in self.entries(row))

    def distance(self, row: str) -> Interval:
        """Over the cells that have the row."""
        return geometric_interval([block[row] for block in self.blocks if row in block])

    def peer_distances(self) -> dict[str, Interval]:
        """Of the peers, from retraining without noise, in the units of the private task."""
        blocks = [distances(cell, self.unit) for cell in self.peers]
        return {
            row: geometric_interval([block[row] for block in blocks if row in block])
            for row in (self.peers[0].rows if self.peers else ())
            if row not in ("retrained", "original")
        }

    def kind(self, row: str) -> str:
        """Kind of guarantee, the weakest word of any cell."""
        kinds = {entry["guarantee"]["kind"] for entry in self.entries(row)}
        return next(kind for kind in ("none", "baseline", "heuristic", "certified", "exact") if kind in kinds)

    def to_json(self) -> dict[str, object]:
        """Ranking and gaps with their intervals."""
        return {
            "seeds": list(self.results),
            "units": self.unit,
            "ranking": [
                {"row": entry.row, "group": entry.groups, "distance": _plain(entry.distance)} for entry in self.ranked
            ],
            "rows": {
                row: {
                    "guarantee": self.kind(row),
                    "rounds": self.rounds(row),
                    "gaps": {
                        name: _plain(found)
                        for name in FIGURES
                        if (found := gap_interval(self.cells, row, name)) is not None
                    },
                }
                for row in self.rows
            },
            "peers": {row: _plain(distance) for row, distance in self.peer_distances().items()},
            "not run": self.refusals(),
        }

    def panel(self) -> Panel:
        """For the picture."""
        points = [
            Point(
                label=_SHORT_NAMES.get(row, row),
                kind=self.kind(row),
                cost=self.rounds(row) / self.cheapest,
                distance=self.distance(row),
            )
            for row in self.rows
            if row != "original" and row.split()[0] not in BASELINES and self.rounds(row) > 0
        ]
        for row, distance in self.peer_distances().items():
            rounds = statistics.mean(rows[row]["rounds"] for rows in self.peer_rounds)
            points.append(Point(label=row, kind="peer", cost=rounds / self.cheapest, distance=distance))
        return Panel(
            title=REQUESTS[self.request],
            points=points,
            nothing=self.distance("original"),
            again=self.distance("retrained"),
            curves=[self._curve(baseline) for baseline in BASELINES],
        )

    def _curve(self, baseline: str) -> Curve:
        """A baseline's distance by its length."""
        rows = {row for block in self.blocks for row in block if row.split()[0] == baseline}
        ends = sorted((self.rounds(row) / self.cheapest, self.distance(row).value) for row in rows)
        return Curve(label=baseline, places=ends)


def _plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON; its ends are null where there is a single cell."""
    return {key: value if math.isfinite(value) else None for key, value in interval.to_json().items()}
