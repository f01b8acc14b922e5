"""The privacy ledger as a table in the terminal."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.table import Table

from secure_fu.privacy import EventStatus, Phase, PrivacyLedger, Subject

__all__ = ["ledger_table"]


def ledger_table(ledger: PrivacyLedger) -> Table:
    """One line a branch: its rounds, and the most that any client's retained and forgotten units have paid.

    Figures of a branch include what it inherits; publishing several branches adds.
    """
    budget = ledger.budget
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Privacy ledger: budget epsilon {budget.epsilon:g} at delta {budget.delta:g}, one {budget.unit.value}",
        caption="Epsilon: every release of the branch and of those it came from; the largest over clients. "
        "Branches are counterfactuals: publishing several adds.",
    )
    for title in ("branch", "comes from"):
        table.add_column(title, no_wrap=True)
    for title in ("released", "void", "open", "epsilon retained", "epsilon forgotten"):
        table.add_column(title, justify="right")
    for branch, parent in ledger.branches.items():
        events = list(ledger.events(branch))
        count = Counter(event.status for event in events)
        clients = sorted({name for event in events for name in event.cohort})
        paid = [
            format(max((ledger.epsilon(branch, name, subject, Phase.BOTH) for name in clients), default=0.0), ".2f")
            for subject in (Subject.RETAINED, Subject.FORGOTTEN)
        ]
        table.add_row(
            branch,
            parent or "",
            *(str(count[status]) for status in (EventStatus.COMMITTED, EventStatus.VOID, EventStatus.RESERVED)),
            *paid,
        )
    return table
