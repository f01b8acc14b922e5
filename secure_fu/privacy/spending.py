"""Who has spent what, in memory: how often each event touched each client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secure_fu.privacy.accounting import renyi_epsilon
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.events import GaussianSumEvent

__all__ = ["Spending", "largest_epsilon"]


class Spending:
    """Integer counts by branch, subject, phase and event; one array over clients each.

    Counts rather than sums of divergences: they are exact, and any group size or delta can be asked for afterwards. A
    run has few distinct events, so the arrays are few.
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._counts: dict[tuple[str, Subject, Phase, GaussianSumEvent], NDArray[np.int64]] = {}

    def __contains__(self, client: str) -> bool:
        return client in self._rows

    def rows(self, clients: Iterable[str]) -> NDArray[np.intp]:
        """Row numbers of clients, shape (n,); new clients get the next ones."""
        return np.array([self._rows.setdefault(client, len(self._rows)) for client in clients], dtype=np.intp)

    def add(
        self,
        *,
        branch: str,
        phase: Phase,
        charges: Mapping[Subject, GaussianSumEvent | None],
        clients: Iterable[str],
        rounds: int,
    ) -> None:
        """Add ``rounds`` (may be negative) rounds of the charges to the clients."""
        rows = self.rows(clients)
        for subject, event in charges.items():
            if event is None:
                continue
            key = (branch, subject, phase, event)
            counts = self._counts.get(key, np.zeros(0, dtype=np.int64))
            if len(counts) < len(self._rows):
                counts = np.pad(counts, (0, len(self._rows) - len(counts)))
            counts[rows] += rounds
            self._counts[key] = counts

    def counts(
        self, *, branches: Sequence[str], subject: Subject, phase: Phase, rows: NDArray[np.intp]
    ) -> dict[GaussianSumEvent, NDArray[np.int64]]:
        """How often each event touched each of the clients in ``rows``, over all the branches.

        A unit that is forgotten in a branch was retained in those that the branch comes from, and has paid as such.

        Args:
            branches: a branch and its ancestors, in this order.
            phase: ``Phase.BOTH`` covers both phases.

        Returns:
            int64 arrays of shape (len(rows),).
        """
        result: dict[GaussianSumEvent, NDArray[np.int64]] = {}
        for (branch, whose, when, event), counts in self._counts.items():
            then = subject if branch == branches[0] else Subject.RETAINED
            if branch in branches and whose is then and phase in (when, Phase.BOTH):
                padded = np.pad(counts, (0, len(self._rows) - len(counts)))[rows]
                result[event] = result[event] + padded if event in result else padded
        return result


def largest_epsilon(counts: Mapping[GaussianSumEvent, NDArray[np.int64]], *, delta: float, group_size: int) -> float:
    """The largest Renyi epsilon of several clients, from :meth:`Spending.counts`; 0.0 where nothing was spent."""
    if not counts:
        return 0.0
    # Clients that took part in the same rounds share a column: few are left.
    columns = np.unique(np.stack(list(counts.values())), axis=1).T.tolist()
    return max(
        renyi_epsilon(
            {event: times for event, times in zip(counts, column, strict=True) if times > 0},
            delta=delta,
            group_size=group_size,
        )
        for column in columns
    )
