from __future__ import annotations

import io
from typing import Any

import pytest
from report_examples import example_result, incomplete, insecure, without_backdoor, without_membership
from rich.console import Console

from secure_fu.errors import RunDirectoryError
from secure_fu.report import terminal_table


def printed(result: dict[str, Any], width: int, *, colours: bool = False) -> str:
    stream = io.StringIO()
    system: Any = "standard" if colours else None
    Console(file=stream, width=width, color_system=system, force_terminal=colours).print(terminal_table(result))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 110, 120, 132, 160])
@pytest.mark.parametrize("example", [example_result, insecure, without_backdoor, without_membership, incomplete])
def test_every_figure_fits_on_one_line(example: Any, width: int) -> None:
    result = example()
    text = printed(result, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in result["rows"]:
        line = next(line for line in lines if line.startswith(row["name"]))
        for figure in (row["guarantee"], f"{100 * row['test_accuracy']:.1f}", str(row["rounds"]), "MB kB"):
            assert any(part in line for part in figure.split())


def test_rows_stand_in_the_order_of_the_report_with_their_answers() -> None:
    lines = printed(example_result(), 160).splitlines()
    rows = [line.split()[:3] for line in lines if line.split()[1:2] and line.split()[1] in EXPECTED_GUARANTEES]
    assert rows == [
        ["original", "none", "–"],
        ["retrained", "exact", "–"],
        ["rollback", "exact", "yes"],
        ["scratch", "exact", "yes"],
        ["scrub", "heuristic", "yes"],
        ["correction", "heuristic", "no"],
        ["finetune", "baseline", "no"],
    ]


EXPECTED_GUARANTEES = {"none", "exact", "certified", "heuristic", "baseline"}


def test_a_row_in_full() -> None:
    line = next(line for line in printed(example_result(), 140).splitlines() if line.startswith("scrub"))
    expected = "scrub heuristic yes 92.5 % 4.2 % 0.52 (0.47–0.57) 4.96 6.08 10 1.2 s 623 kB"
    assert " ".join(line.split()) == expected
    line = next(line for line in printed(example_result(), 80).splitlines() if line.startswith("scrub"))
    assert " ".join(line.split()) == "scrub heuristic yes 92.5 4.2 0.52±.05 4.96 6.08 10 1.2 623 kB"


def test_what_was_not_measured_is_a_dash() -> None:
    result = without_backdoor()
    for row in result["rows"]:
        row["membership_auc"] = None
    line = next(line for line in printed(result, 80).splitlines() if line.startswith("scrub"))
    assert line.split()[2:6] == ["?", "92.5", "–", "–"]


@pytest.mark.parametrize("width", [80, 160])
def test_insecure_is_the_title(width: int) -> None:
    assert printed(insecure(), width).startswith("INSECURE: scheme plain: uploads are not encrypted; ")
    assert "INSECURE" not in printed(example_result(), width)


def test_colours_mark_what_stands_out() -> None:
    text = printed(example_result(), 120, colours=True)
    line = next(line for line in text.splitlines() if "correction" in line)
    assert "\x1b[31m" in line  # accuracy and backdoor, red
    assert "\x1b[1;31m" in line  # "no", bold red


def test_titles_cannot_smuggle_markup() -> None:
    result = insecure()
    result["insecure"] = ["[red]careful[/red]"]
    assert "[red]careful[/red]" in printed(result, 120)


def test_a_wrong_result_is_refused() -> None:
    with pytest.raises(RunDirectoryError, match=r"\$\.schema is missing"):
        terminal_table({})
