"""The privacy ledger as a table in the terminal."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.table import Table

from secure_fu.privacy import EventStatus, Phase, PrivacyLedger, Subject

__all__ = ["ledger_table"]


def ledger_table(ledger: PrivacyLedger) -> Table:
    """One line a branch: its rounds, and the most that any client's retained and forgotten units have paid.

    Figures of a branch include what it inherits; publishing several branches adds. Unsettled rounds, which a crash
    leaves, are charged as if they had been opened; void ones are known not to have been, and cost nothing.
    """
    budget = ledger.budget
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
        title=f"Privacy ledger: budget epsilon {budget.epsilon:g} at delta {budget.delta:g}, one {budget.unit.value}",
        caption="Epsilon: every release of the branch and of those it came from; the largest over clients. "
        "Branches are counterfactuals: publishing several adds.",
    )
    for title in ("branch", "comes from"):
        table.add_column(title, no_wrap=True, vertical="bottom")
    for title in ("released", "void", "unsettled", "epsilon\nforgotten", "epsilon\nretained"):
        table.add_column(title, justify="right", no_wrap=True, vertical="bottom")
    clients = sorted({name for event in ledger.events() for name in event.cohort})
    for branch, parent in ledger.branches.items():
        count = Counter(event.status for event in ledger.events(branch))
        entries = ledger.epsilon_entries(branch, forgotten=clients, retained=clients)
        paid = {entry.subject: entry.value for entry in entries if entry.phase is Phase.BOTH}
        table.add_row(
            branch,
            parent or "",
            *(str(count[status]) for status in (EventStatus.COMMITTED, EventStatus.VOID, EventStatus.RESERVED)),
            *("∞" if (value := paid.get(subject, 0.0)) is None else f"{value:.2f}" for subject in Subject),
        )
    return table
