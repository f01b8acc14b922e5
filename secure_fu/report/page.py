"""The report: one HTML page that needs nothing but itself, and its pictures as PNG files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secure_fu.report import text
from secure_fu.report.attack_plots import roc_picture, scores_picture
from secure_fu.report.canvas import Picture, drawing
from secure_fu.report.curves import curves_picture
from secure_fu.report.notes import NOT_PROTECTED, assumptions
from secure_fu.report.plots import epsilon_picture, outcome_picture, traffic_picture
from secure_fu.report.result import Result
from secure_fu.report.schema import read_result
from secure_fu.report.style import method_styles
from secure_fu.report.templating import environment, flat, write_page
from secure_fu.report.verdict import ACCURACY_MARGIN, BACKDOOR_MARGIN, headline, ordered_rows, verdicts

__all__ = ["write_report"]

_PICTURES = (outcome_picture, curves_picture, epsilon_picture, traffic_picture, roc_picture, scores_picture)


def write_report(result: Mapping[str, object], directory: Path) -> Path:
    """Write ``report.html`` and ``plots/*.png`` for a run.

    The page embeds the pictures and refers to nothing outside itself; it can be mailed as one file. Both are
    overwritten if they exist. Pictures of what the run did not measure are left out.

    Args:
        result: a decoded ``result.json``.
        directory: the run directory, which must exist.

    Returns:
        The path of the page.

    Raises:
        RunDirectoryError: if the result does not follow its schema, or the directory cannot be written.
    """
    run = read_result(result)
    with drawing():
        pictures = [picture for draw in _PICTURES if (picture := draw(run)) is not None]
    return write_page(directory, "report.html", _render(run, pictures), pictures)


def _render(run: Result, pictures: list[Picture]) -> str:
    rows = ordered_rows(run)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            rows=rows,
            styles=method_styles(row.name for row in rows),
            headline=headline(run),
            verdicts=verdicts(run),
            margins={"accuracy": ACCURACY_MARGIN, "backdoor": BACKDOOR_MARGIN},
            pictures=pictures,
            assumptions=assumptions(run),
            not_protected=NOT_PROTECTED,
            epsilon=text.headline_epsilon,
            config=list(flat(run.config)),
        )
    )
