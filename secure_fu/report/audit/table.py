"""The audit in the terminal: the verdict first, then one line a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from secure_fu.report.audit.result import Audit, MethodRow, Outcome
from secure_fu.report.audit.schema import read_audit
from secure_fu.report.audit.words import QUICK, areas, cards, grouped, headline, is_control

__all__ = ["AuditSummary", "audit_summary"]

_STYLES = {
    Outcome.LEAK: "bold red",
    Outcome.INVALID: "bold magenta",
    Outcome.CANNOT_TELL: "yellow",
    Outcome.PASSED: "bold green",
}


def audit_summary(result: Mapping[str, object]) -> AuditSummary:
    """The summary of a decoded ``audit.json``, to be printed on a rich console.

    Raises:
        RunDirectoryError: if the result does not follow its schema.
    """
    return AuditSummary(read_audit(result))


class AuditSummary:
    """A rich renderable: outcome, sentences, and a table of every question."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        audit = self._audit
        if audit.insecure:
            yield Text(f"INSECURE: {'; '.join(audit.insecure)}", style="bold white on red")
        yield Text(f"{headline(audit.outcome)}.", style=_STYLES[audit.outcome])
        if audit.source.quick:
            yield Text(QUICK, style="bold yellow")
        for sentence in audit.sentences:
            yield Text(sentence)
        questions = [(card.title, card.outcome, card.reason) for card in cards(audit)]
        if len(questions) > 1:
            yield Text("")
            yield _table(questions)
        yield from _pairs(() if audit.deletion is None else audit.deletion.rows)


def _pairs(rows: Sequence[MethodRow]) -> Iterator[RenderableType]:
    """Whether a deletion is given away, by method; controls below, for they are there to compare with."""
    methods = [
        (f"{row.title} (baseline)" if row.baseline else row.title, row.pair_verdict)
        for row in rows
        if row.pair_verdict is not None and not is_control(row)
    ]
    controls = [f"{row.title}. {areas(row)}" for row in rows if is_control(row) and row.headline]
    if methods or controls:
        yield Text("")
        yield Text("Who holds both models (no question of forgetting):", style="dim")
    if methods:
        yield _table([(title, verdict.outcome, verdict.sentence) for title, verdict in grouped(methods)])
    for control in controls:
        yield Text(control, style="dim")


def _table(questions: list[tuple[str, Outcome, str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("audited", overflow="fold", max_width=28)
    table.add_column("answer", no_wrap=True)
    table.add_column("why", overflow="fold")
    for title, outcome, reason in questions:
        table.add_row(Text(title, style="bold"), Text(outcome.value, style=_STYLES[outcome]), Text(reason))
    return table
