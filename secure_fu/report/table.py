"""The comparison as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from secure_fu.report.result import Guarantee, Interval, Result, Row
from secure_fu.report.schema import read_result
from secure_fu.report.text import MISSING, byte_count, decimal, duration, headline_epsilon, percent
from secure_fu.report.verdict import ACCURACY_MARGIN, BACKDOOR_MARGIN, Answer, ordered_rows, verdicts

__all__ = ["ResultTable", "terminal_table"]

# Console widths from which on headers and intervals are written out, and columns stand further apart.
_WRITTEN_OUT = 110
_ROOMY = 132

_SHORT = (
    "model",
    "guarantee",
    "for-\ngot?",
    "test\n%",
    "back-\ndoor%",
    "member\nAUC",
    "ε\nforg.",
    "ε\nkept",
    "rounds",
    "sec.",
    "upload",
)
_LONG = (
    "model",
    "guarantee",
    "forgot?",
    "test\naccuracy",
    "backdoor\nsuccess",
    "membership\nAUC",
    "epsilon\nforgotten",
    "epsilon\nretained",
    "rounds",
    "time",
    "upload",
)

_GUARANTEE_STYLE = {
    Guarantee.NONE: "dim",
    Guarantee.EXACT: "green",
    Guarantee.CERTIFIED: "green",
    Guarantee.HEURISTIC: "yellow",
    Guarantee.BASELINE: "dim",
}
_ANSWER = {Answer.YES: ("yes", "bold green"), Answer.NO: ("no", "bold red"), Answer.UNKNOWN: ("?", "yellow")}


def terminal_table(result: Mapping[str, object]) -> ResultTable:
    """A table of every row of a decoded ``result.json``, to be printed on a rich console of 80 columns or more.

    Raises:
        RunDirectoryError: if the result does not follow its schema.
    """
    return ResultTable(read_result(result))


class ResultTable:
    """A rich renderable that fits its columns to the width of the console."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        long = options.max_width >= _WRITTEN_OUT
        insecure = self._result.insecure
        table = Table(
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1 if options.max_width >= _ROOMY else 0),
            title=Text(f"INSECURE: {'; '.join(insecure)}", style="bold white on red") if insecure else None,
            title_justify="left",
            caption=self._caption(),
            caption_justify="left",
        )
        for index, header in enumerate(_LONG if long else _SHORT):
            table.add_column(header, justify="left" if index < 3 else "right", vertical="bottom", no_wrap=True)
        answers = {verdict.row.name: verdict.forgot for verdict in verdicts(self._result)}
        for row in ordered_rows(self._result):
            table.add_row(*self._cells(row, answers.get(row.name), long=long))
        yield table

    def _cells(self, row: Row, answer: Answer | None, *, long: bool) -> tuple[Text, ...]:
        reference = self._result.row("retrained")
        answered, answer_style = (MISSING, "dim") if answer is None else _ANSWER[answer]
        costly = reference is not None and row.test_accuracy < reference.test_accuracy - ACCURACY_MARGIN
        leaking = (
            reference is not None
            and row.backdoor_success is not None
            and reference.backdoor_success is not None
            and row.backdoor_success > reference.backdoor_success + BACKDOOR_MARGIN
        )
        epsilons = []
        for subject in ("forgotten", "retained"):
            claim = headline_epsilon(row, subject)
            epsilons.append(Text(MISSING if claim is None else decimal(claim.value)))
        return (
            Text(row.name, style="bold"),
            Text(row.guarantee.value, style=_GUARANTEE_STYLE[row.guarantee]),
            Text(answered, style=answer_style),
            Text(_percentage(row.test_accuracy, long=long), style="red" if costly else ""),
            Text(_percentage(row.backdoor_success, long=long), style="red" if leaking else ""),
            Text(_area(row.membership_auc, long=long)),
            *epsilons,
            Text(str(row.rounds)),
            Text(duration(row.seconds) if long else f"{row.seconds:.1f}"),
            Text(byte_count(row.upload_bytes_per_client)),
        )

    def _caption(self) -> Text:
        privacy = self._result.privacy
        budget = "" if privacy.budget_epsilon is None else f", budget {privacy.budget_epsilon:g}"
        return Text(
            f"Forgot? compares this one run with retraining. Epsilon: one {privacy.unit}, every release, "
            f"delta {privacy.delta:g}{budget}. Upload: one client, whole branch.",
            style="dim",
        )


def _percentage(fraction: float | None, *, long: bool) -> str:
    return percent(fraction) if long else percent(fraction, unit="")


def _area(figure: Interval | None, *, long: bool) -> str:
    if figure is None:
        return MISSING
    if long:
        return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})"
    half = max(figure.high - figure.value, figure.value - figure.low)
    return f"{figure.value:.2f}±{half:.2f}".replace("±0.", "±.")
