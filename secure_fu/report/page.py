"""The report: one HTML page that needs nothing but itself, and its pictures as PNG files beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from secure_fu.errors import RunDirectoryError
from secure_fu.report import text
from secure_fu.report.attack_plots import roc_picture, scores_picture
from secure_fu.report.canvas import Picture, drawing
from secure_fu.report.curves import curves_picture
from secure_fu.report.notes import NOT_PROTECTED, assumptions
from secure_fu.report.plots import epsilon_picture, outcome_picture, traffic_picture
from secure_fu.report.result import Result
from secure_fu.report.schema import read_result
from secure_fu.report.style import method_styles
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
    page = directory / "report.html"
    try:
        plots = directory / "plots"
        plots.mkdir(exist_ok=True)
        for picture in pictures:
            (plots / f"{picture.name}.png").write_bytes(picture.png)
        page.write_text(_render(run, pictures), encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"the report cannot be written to {str(directory)!r}: {error.strerror}") from error
    return page


def _render(run: Result, pictures: list[Picture]) -> str:
    environment = Environment(
        loader=PackageLoader("secure_fu.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=text.byte_count,
        count=text.count,
        decimal=text.decimal,
        duration=text.duration,
        interval=text.interval,
        percent=text.percent,
        signed_points=text.signed_points,
        base64=lambda data: base64.b64encode(data).decode("ascii"),
    )
    rows = ordered_rows(run)
    return environment.get_template("report.html.j2").render(
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
        config=list(_flat(run.config)),
    )


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", text.MISSING if value is None else str(value)
