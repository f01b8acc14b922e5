"""From the results of cells to Markdown tables and pictures."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from comparison.figures import FIGURES, Figure
from comparison.gathered import BASELINES, Comparison, Result
from comparison.picture import trade_off
from comparison.statistics import FAMILY_ERROR, LEVEL, CellFigures, gap_interval, holm, ranking, worst
from comparison.tasks import REQUESTS, Task
from secure_fu.privacy import Interval
from secure_fu.report.canvas import Picture

__all__ = ["PREFACE", "overview", "page"]

PREFACE = f"""# Unlearning methods compared

Every row is held against other retrainings of the same seed, which differ by their noise alone.

- *Distance*: the largest, over the figures, of the gap to retraining in units of what one retraining is away from
  others (root mean square), or of a floor that nobody would mind: one point, for relearning a tenth. Forget loss does
  not count, for it says what forget accuracy, membership and relearning say. Retraining itself is about 2 away.
- *Cheapest retraining*: the shortest training, with the noise for its own number of rounds, that is at most half a
  point less accurate than the full one. Costs are over its rounds.
- *Membership AUC*: of a loss attack, forgotten against held-out records with the same classes and trigger.
- *Output distance*: Jensen-Shannon distance between the outputs of two models, half on test and half on forgotten
  records, above that between two retrainings.
- *Relearning*: steps of gradient descent on the forgotten records to half the loss that the original has there.
- *Group*: rows with a letter in common are not told apart by paired tests of the logarithms of the distances, with
  Holm's correction, at {100 * FAMILY_ERROR:g} % for the table.
- *Guarantee*: what is proved of forgetting. `scratch` is exact too, of a weaker model.
- *Epsilon*: of one unit; see the page on privacy for phase, pair and who asked.
- Peers keep every client's updates in plaintext. They run without noise, as published, and are held against
  retraining without noise, in the same units.
"""

_NAMES = {"original": "do nothing", "retrained": "retraining", "shorter": "cheapest retraining"}
_MEGABYTE = 1e6


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
                panels.append(dataclasses.replace(comparison.panel(), title=comparison.task.name))
    if not panels:
        return None
    return trade_off(panels, name=f"trade-off-{request}", title=f"Cost against distance: {REQUESTS[request]}")


def _opening(task: Task, comparisons: Sequence[Comparison], scans: Result) -> list[str]:
    first = next(iter(comparisons[0].results.values()))
    return [
        f"{first['dimension']} parameters, {first['training_rounds']} rounds of training. Cheapest retraining of equal "
        f"accuracy: {scans['rounds']} rounds at {scans['rate_factor']:g} times the learning rate, with the noise for "
        f"that many; {100 * scans['test_accuracy']:.1f} % against {100 * scans['full_accuracy']:.1f} % on the seeds "
        "for settings.",
        *(("", task.note) if task.note else ()),
    ]


def _request_section(comparison: Comparison) -> list[str]:
    seeds = ", ".join(str(seed) for seed in comparison.results)
    forgotten = [result["forgotten"] for result in comparison.results.values()]
    span = f"{min(forgotten)}" if min(forgotten) == max(forgotten) else f"{min(forgotten)} to {max(forgotten)}"
    lines = [
        f"Seeds {seeds}; {span} records forgotten. Gaps to retraining are in points or ratios (×), with "
        f"{100 * LEVEL:g} % intervals of the mean. *Over finetune* and *over scratch*: the distance over that of the "
        f"baseline in as many rounds, a star where this is not noise ({100 * FAMILY_ERROR:g} % for the table).",
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
    header = ["row", "guarantee", "distance", "worst in", "group", *(f"over {baseline}" for baseline in BASELINES)]
    header += [FIGURES[name].title for name in shown]
    against = _against(comparison)
    groups = {entry.row: entry.groups for entry in comparison.ranked}
    rows = [
        [
            _NAMES.get(row, f"`{row}`"),
            comparison.kind(row),
            _distance(comparison.distance(row)),
            FIGURES[worst(comparison.cells, row, comparison.unit)].title,
            groups.get(row, "not in all seeds"),
            *(against.get((row, baseline), "–") for baseline in BASELINES),
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
                FIGURES[worst(comparison.peers, row, comparison.unit)].title,
                "peer",
                *("–" for _ in BASELINES),
                *(_gap_text(gap_interval(comparison.peers, row, name), FIGURES[name]) for name in shown),
            ]
        )
    return _table(header, rows)


def _against(comparison: Comparison) -> dict[tuple[str, str], str]:
    """A method's distance over that of a baseline in as many rounds; a star where that is not noise."""
    found = {
        (row, baseline): compared
        for row in comparison.rows
        if row.split()[0] not in ("original", "retrained", "shorter", *BASELINES)
        for baseline in BASELINES
        if (compared := comparison.against(row, baseline)) is not None
    }
    adjusted = holm([compared.p for compared in found.values()])
    return {
        place: f"×{_significant(compared.ratio)}" + ("*" if p <= FAMILY_ERROR else "")
        for (place, compared), p in zip(found.items(), adjusted, strict=True)
    }


def _has(cell: CellFigures, name: str) -> bool:
    return any(values.get(name) is not None for values in cell.rows.values())


def _gap_text(gap: Interval | None, figure: Figure) -> str:
    if gap is None:
        return "–"
    if math.isnan(gap.low):
        return f"×{_significant(math.exp(gap.value))}" if figure.ratio else f"{100 * gap.value:+.1f}"
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
    header += ["epsilon: phase", "pair", "who asked", "of who stays", "guarantee"]
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
    given = [entry["guarantee"] for entry in entries]
    certified = [entry for entry in given if entry["kind"] == "certified"]
    if not certified:
        return str(min(entry["kind"] for entry in given))
    units = max(entry["group_size"] for entry in certified)
    whom = f"for {units} units together, against {certified[0]['view']}"
    known = [entry["epsilon"] for entry in certified if entry["epsilon"] is not None]
    bound = f"epsilon {max(known):.2f}" if len(known) == len(certified) else "no finite epsilon"
    return f"certified: {bound} {whom}"


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.mean(known) if known else None


def _overall(comparisons: Sequence[Comparison]) -> list[str]:
    """The ranking over the cells of all requests; a cell is a request and a seed."""
    blocks = [comparison.without_lengths(block) for comparison in comparisons for block in comparison.blocks]
    ranked = ranking(blocks)
    lines = [
        f"Ranking over all {len(blocks)} cells, of the rows that every request has.",
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
