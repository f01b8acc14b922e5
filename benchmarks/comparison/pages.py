"""From the results of cells to Markdown tables and pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comparison.figures import FIGURES, Figure
from comparison.picture import Panel, Point, trade_off
from comparison.statistics import (
    FAMILY_ERROR,
    LEVEL,
    CellFigures,
    Ranked,
    distances,
    gap_interval,
    geometric_interval,
    ranking,
    units,
)
from comparison.tasks import REQUESTS, Task
from secure_fu.privacy import Interval
from secure_fu.report.canvas import Picture

__all__ = ["Comparison", "figures_of", "overview", "page"]

Result = Mapping[str, Any]

_PEERS = "peers"
_NAMES = {"original": "do nothing", "retrained": "retraining", "shorter": "cheapest retraining"}
_SHORT_NAMES = {"retrained": "retraining", "shorter": "cheapest", "original": "do nothing"}
_MEGABYTE = 1e6


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
        self.ranked = ranking(self.blocks)
        peers = [result["peers"] for result in self.results.values() if result["peers"]]
        self.peers = [figures_of(entry) for entry in peers if "rows" in entry]
        self.peer_rounds = [entry["rows"] for entry in peers if "rows" in entry]
        self.peers_refused = next((entry["refused"] for entry in peers if "refused" in entry), None)

    @property
    def rows(self) -> list[str]:
        """Rows that some cell has, nearest to retraining first; those that are not in all cells last."""
        placed = [entry.row for entry in self.ranked]
        return placed + sorted({row for cell in self.cells for row in cell.rows} - set(placed))

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
        return next((kind for kind in ("heuristic", "baseline", "certified") if kind in kinds), min(kinds))

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
            if row != "original" and self.rounds(row) > 0
        ]
        for row, distance in self.peer_distances().items():
            rounds = statistics.mean(rows[row]["rounds"] for rows in self.peer_rounds)
            points.append(Point(label=row, kind="peer", cost=rounds / self.cheapest, distance=distance))
        return Panel(
            title=REQUESTS[self.request],
            points=points,
            nothing=self.distance("original"),
            again=self.distance("retrained"),
        )


def _plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON; its ends are null where there is a single cell."""
    return {key: value if math.isfinite(value) else None for key, value in interval.to_json().items()}


def page(task: Task, comparisons: Sequence[Comparison], scans: Result) -> tuple[str, Picture]:
    """The page of one task: tables for each request, the ranking over all of them, and the picture."""
    drawn = trade_off(
        [comparison.panel() for comparison in comparisons], name=task.name.replace("/", "-"), title=task.title
    )
    lines = [f"## {task.title}", "", *_opening(task, comparisons, scans), "", f"![{drawn.alt}]({drawn.name}.png)", ""]
    lines += [drawn.caption, ""]
    for comparison in comparisons:
        lines += [f"### {task.title}: {REQUESTS[comparison.request]}", "", *_request_section(comparison)]
    if len(comparisons) > 1:
        lines += [f"### {task.title}: all requests", "", *_overall(comparisons)]
    return "\n".join(lines), drawn


def overview(pages: Mapping[str, Sequence[Comparison]], *, request: str) -> Picture | None:
    """One panel a task, for one request; None where no task has it."""
    panels = []
    for comparisons in pages.values():
        for comparison in comparisons:
            if comparison.request == request:
                panel = comparison.panel()
                panels.append(
                    Panel(
                        title=comparison.task.title.split(",")[0] + ", " + comparison.task.name.split("/")[1],
                        points=panel.points,
                        nothing=panel.nothing,
                        again=panel.again,
                    )
                )
    if not panels:
        return None
    return trade_off(panels, name=f"trade-off-{request}", title=f"Cost against distance: {REQUESTS[request]}")


def _opening(task: Task, comparisons: Sequence[Comparison], scans: Result) -> list[str]:
    first = next(iter(comparisons[0].results.values()))
    return [
        f"{first['dimension']} parameters, {first['training_rounds']} rounds of training. Cheapest retraining of equal "
        f"accuracy: {scans['rounds']} rounds at {scans['rate_factor']:g} times the learning rate, with the noise for "
        f"that many; {100 * scans['test_accuracy']:.1f} % against {100 * scans['full_accuracy']:.1f} % on the seeds "
        "for settings."
    ]


def _request_section(comparison: Comparison) -> list[str]:
    seeds = ", ".join(str(seed) for seed in comparison.results)
    forgotten = [result["forgotten"] for result in comparison.results.values()]
    span = f"{min(forgotten)}" if min(forgotten) == max(forgotten) else f"{min(forgotten)} to {max(forgotten)}"
    lines = [
        f"Seeds {seeds}; {span} records forgotten. Gaps to retraining, in points where no sign of ratio (×) stands, "
        f"with the {LEVEL:.0%} interval of the mean.",
        "",
        *_absolute(comparison),
        "",
        *_gap_table(comparison),
        "",
        *_cost_table(comparison),
        "",
    ]
    refused = comparison.refusals()
    if comparison.peers_refused is not None:
        refused["FedEraser, FedRecover"] = comparison.peers_refused
    if refused:
        lines += ["Not run:", "", *(f"- `{row}`: {reason}" for row, reason in sorted(refused.items())), ""]
    return lines


def _absolute(comparison: Comparison) -> list[str]:
    def mean(row: str, name: str) -> str | None:
        values = [entry["figures"].get(name) for entry in comparison.entries(row)]
        known = [value for value in values if value is not None]
        return f"{100 * statistics.mean(known):.1f}" if known else None

    names = ("test_accuracy", "retain_accuracy", "forget_accuracy", "backdoor_success", "membership_auc")
    parts = []
    for row in ("original", "retrained"):
        shown = [(FIGURES[name].title, mean(row, name)) for name in names]
        parts.append(f"{_NAMES[row]}: " + ", ".join(f"{title} {value}" for title, value in shown if value is not None))
    return [f"In percent, {'; '.join(parts)}."]


_COLUMNS = (
    "test_accuracy",
    "retain_accuracy",
    "forget_accuracy",
    "forget_loss",
    "backdoor_success",
    "membership_auc",
    "output_distance",
    "relearn_steps",
)


def _gap_table(comparison: Comparison) -> list[str]:
    shown = [name for name in _COLUMNS if any(_has(cell, name) for cell in comparison.cells)]
    header = ["row", "guarantee", "distance", "group", *(FIGURES[name].title for name in shown)]
    groups = {entry.row: entry.groups for entry in comparison.ranked}
    rows = [
        [
            _NAMES.get(row, f"`{row}`"),
            comparison.kind(row),
            _distance(comparison.distance(row)),
            groups.get(row, "not in all seeds"),
            *(_gap_text(gap_interval(comparison.cells, row, name), FIGURES[name]) for name in shown),
        ]
        for row in comparison.rows
    ]
    for row, distance in comparison.peer_distances().items():
        rows.append(
            [
                f"*{row}, sees every update*",
                "none",
                _distance(distance),
                "peer",
                *(_gap_text(gap_interval(comparison.peers, row, name), FIGURES[name]) for name in shown),
            ]
        )
    return _table(header, rows)


def _has(cell: CellFigures, name: str) -> bool:
    return any(values.get(name) is not None for values in cell.rows.values())


def _gap_text(gap: Interval | None, figure: Figure) -> str:
    if gap is None:
        return "–"
    if figure.ratio:
        mean, low, high = (_significant(math.exp(end)) for end in (gap.value, gap.low, gap.high))
        return f"×{mean} ({low} to {high})"
    return f"{100 * gap.value:+.1f} ± {100 * (gap.high - gap.value):.1f}"


def _significant(value: float) -> str:
    if value >= 1000.0:
        return f"{value:.0f}"
    return f"{value:.2g}" if value < 100.0 else f"{value:.0f}"


def _distance(distance: Interval) -> str:
    if math.isnan(distance.low):
        return _significant(distance.value)
    return f"{_significant(distance.value)} ({_significant(distance.low)} to {_significant(distance.high)})"


def _cost_table(comparison: Comparison) -> list[str]:
    encrypted = {seed: result for seed, result in comparison.results.items() if result["scheme"] != "plain"}
    reference = [result["rows"]["retrained"] for result in encrypted.values()]
    header = ["row", "rounds", "of the cheapest", "client s", "of retraining's", "upload MB"]
    header += ["forgotten: phase", "pair", "who asked", "retained: all", "guarantee"]
    rows = []
    for row in comparison.rows:
        if row == "original":
            continue
        entries = comparison.entries(row)
        costs = [result["rows"][row] for result in encrypted.values() if "figures" in result["rows"].get(row, {})]
        seconds = _mean(entry["client_seconds"] for entry in costs)
        full = _mean(entry["client_seconds"] for entry in reference)
        uploads = _mean(entry["upload_bytes"] / _MEGABYTE for entry in costs)
        rows.append(
            [
                _NAMES.get(row, f"`{row}`"),
                f"{comparison.rounds(row):g}",
                f"{comparison.rounds(row) / comparison.cheapest:.2f}",
                "–" if seconds is None else f"{seconds:.2g}",
                "–" if seconds is None or not full else f"{seconds / full:.2f}",
                "–" if uploads is None else f"{uploads:.2g}",
                *(
                    _largest(entries, lambda entry, key=key: entry["confidentiality"][key]["value"])
                    for key in ("phase", "pair", "who_asked")
                ),
                _largest(entries, _retained_epsilon),
                _guarantee(entries),
            ]
        )
    for row in comparison.peer_distances():
        rounds = statistics.mean(entry[row]["rounds"] for entry in comparison.peer_rounds)
        rows.append(
            [
                f"*{row}, sees every update*",
                f"{rounds:.0f}",
                f"{rounds / comparison.cheapest:.2f}",
                *("–" for _ in range(3)),
                *("none" for _ in range(4)),
                "none; the server keeps every client's updates, and there is no noise",
            ]
        )
    note = (
        f"Seconds of a client's processor and its uploads in one run, with scheme `kahe`: seed "
        f"{', '.join(str(seed) for seed in encrypted)}. The other seeds ran with scheme `plain`: the sums are exact "
        "integers, so that what is released has the same law."
        if encrypted
        else "All seeds ran with scheme `plain`: sums are exact integers, so that what is released has the same law."
    )
    return [*_table(header, rows), "", note + " Epsilon is the largest over seeds, for one unit."]


def _retained_epsilon(entry: Mapping[str, Any]) -> float | None:
    found: list[float | None] = [
        value["value"]
        for value in entry["epsilon"]
        if value["subject"] == "retained" and value["phase"] == "training+unlearning"
    ]
    return found[0] if found else None


def _largest(entries: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float | None]) -> str:
    values = [of(entry) for entry in entries]
    known = [value for value in values if value is not None]
    return f"{max(known):.2f}" if len(known) == len(values) else "∞"


def _guarantee(entries: Sequence[Mapping[str, Any]]) -> str:
    epsilons = [entry["guarantee"]["epsilon"] for entry in entries]
    kinds = {entry["guarantee"]["kind"] for entry in entries}
    if "certified" in kinds:
        known = [value for value in epsilons if value is not None]
        return f"certified, epsilon {max(known):.2f}" if len(known) == len(epsilons) else "certified, no finite epsilon"
    return min(kinds)


def _mean(values: Any) -> float | None:
    known = list(values)
    return statistics.mean(known) if known else None


def _overall(comparisons: Sequence[Comparison]) -> list[str]:
    """The ranking over the cells of all requests; a cell is a request and a seed."""
    blocks = [block for comparison in comparisons for block in comparison.blocks]
    ranked: Sequence[Ranked] = ranking(blocks)
    lines = [
        f"Ranking over all {len(blocks)} cells, rows that every request has. Rows with a letter in common are not told "
        f"apart: paired tests of the logarithms of the distances, Holm's correction, {FAMILY_ERROR:.0%} for the table.",
        "",
    ]
    rows = [
        [str(place), _NAMES.get(entry.row, f"`{entry.row}`"), _distance(entry.distance), entry.groups]
        for place, entry in enumerate(ranked, start=1)
    ]
    return [*lines, *_table(["place", "row", "distance", "group"], rows), ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
