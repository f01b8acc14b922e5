"""The audit's page: one HTML file that needs nothing but itself, and its pictures as PNG files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secure_fu.privacy import holm
from secure_fu.report.audit.deletion_pictures import EXCESS, deletion_gap_picture, deletion_pair_picture, stated_tests
from secure_fu.report.audit.marks import judged, judged_pairs
from secure_fu.report.audit.membership_pictures import membership_roc_picture, membership_scores_picture
from secure_fu.report.audit.protocol_pictures import bounds_picture, noise_picture, views_picture
from secure_fu.report.audit.result import Audit, Comparison, MethodRow, Outcome
from secure_fu.report.audit.schema import read_audit
from secure_fu.report.audit.words import (
    BASELINE,
    QUICK,
    areas,
    cards,
    finding_title,
    game_title,
    headline,
    is_control,
    meaning,
    method_bound_title,
    method_title,
    p_value,
    reasons,
    score_title,
)
from secure_fu.report.canvas import Picture, drawing
from secure_fu.report.templating import environment, flat, write_page

__all__ = ["write_audit_page"]

_PICTURES = (
    membership_roc_picture,
    membership_scores_picture,
    deletion_gap_picture,
    deletion_pair_picture,
    bounds_picture,
    noise_picture,
    views_picture,
)


def write_audit_page(result: Mapping[str, object], directory: Path) -> Path:
    """Write ``audit.html`` and ``plots/*.png`` for an audit.

    The page embeds the pictures and refers to nothing outside itself; it can be mailed as one file. Both are
    overwritten if they exist. What was not audited is left out.

    Args:
        result: a decoded ``audit.json``.
        directory: must exist.

    Returns:
        The path of the page.

    Raises:
        RunDirectoryError: if the result does not follow its schema, or the directory cannot be written.
    """
    audit = read_audit(result)
    with drawing():
        pictures = [picture for draw in _PICTURES if (picture := draw(audit)) is not None]
    return write_page(directory, "audit.html", _render(audit, pictures), pictures)


def _render(audit: Audit, pictures: list[Picture]) -> str:
    template = environment().get_template("audit.html.j2")
    rows = () if audit.deletion is None else audit.deletion.rows
    pairs = [(row, row.pair_verdict) for row in rows if row.pair_verdict is not None and not is_control(row)]
    return template.render(
        audit=audit,
        headline=headline(audit.outcome),
        meaning=meaning(audit.outcome),
        quick_words=QUICK,
        baseline_words=BASELINE,
        cards=cards(audit),
        answers=list(zip(rows, reasons([(row.title, row.verdict) for row in rows]), strict=True)),
        pairs=list(zip(pairs, reasons([(row.title, verdict) for row, verdict in pairs]), strict=True)),
        pair_controls=[(row.title, areas(row)) for row in rows if is_control(row) and row.headline],
        pictures={picture.name: picture for picture in pictures},
        config=list(flat(audit.source.config or {})),
        comparisons=_comparisons,
        judged_pairs=judged_pairs,
        game_title=game_title,
        score_title=score_title,
        bound_title=method_bound_title,
        finding_title=finding_title,
        method_title=method_title,
        p_value=p_value,
    )


def _comparisons(row: MethodRow, level: float) -> list[tuple[str, Comparison, float | None, Outcome | None]]:
    """Name, figures, corrected p-value of a difference and answer; the last two only of what was tested."""
    tests = stated_tests(row)
    adjusted = holm({name: test.p_different for name, test in tests.items() if test.p_different is not None})
    answers = judged(tests, level=level)
    others = {
        "accuracy on forgotten": row.forget_accuracy,
        "loss on forgotten": row.forget_loss,
        "test accuracy": row.test_accuracy,
    }
    return [
        (score_title(name), figure, adjusted.get(name), answers.get(name))
        for name, figure in {**row.after_only, EXCESS: row.forget_excess, **others}.items()
    ]
