"""How well a deletion itself is hidden: three figures, from the ledger.

A deletion can leak exactly what it removes. Each figure is an (epsilon, delta) between two worlds that differ in one
unit (or in ``group_size`` of one client's units), for somebody who sees every release:

- *phase*: the unlearning transcript with the unit's data as a forgotten unit's, against without it.
- *pair*: everything released before and after together, against the unit never having joined.
- *who asked*: the unlearning transcript where the unit left, against where it stayed. Training before is the same in
  both worlds, so it holds for the releases up to the end of the unlearning rounds; in training that goes on afterwards
  who stayed contributes again.
  :mod:`secure_fu.privacy.exchange` has the theorem.

Assumes, beside what the charges assume: which units asked is nowhere public but in these sums. What the server
publishes of the request (number of units, checkpoint of a rollback, cohorts) has to be the same in both worlds. The
figures are about requests that are chosen before the unlearning rounds; a choice among them after seeing releases is
what the budget's filter is for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import positive_integer, probability
from secure_fu.privacy.accounting import renyi_epsilon
from secure_fu.privacy.epsilon import Phase, Subject
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.exchange import ExchangedSum, exchange_epsilon
from secure_fu.privacy.ledger import PrivacyLedger
from secure_fu.privacy.ledger_records import LedgerEvent

__all__ = ["Confidentiality", "EpsilonFigure", "confidentiality"]


@dataclass(frozen=True, kw_only=True)
class EpsilonFigure:
    """One epsilon, at a delta, for a number of units.

    Args:
        value: epsilon; 0.0 where no release can tell, None where no finite bound can be shown at this delta.
        delta: the delta at which it holds.
        group_size: number of units that are hidden together.

    Raises:
        ArgumentError: ``value`` is negative, infinite or NaN, or delta or group_size is outside its domain.
    """

    value: float | None
    delta: float
    group_size: int = 1

    def __post_init__(self) -> None:
        if self.value is not None and not (math.isfinite(self.value) and self.value >= 0.0):
            raise ArgumentError("value", self.value, "a finite epsilon of at least 0, or None where there is no bound")
        probability("delta", self.delta)
        positive_integer("group_size", self.group_size)

    def describe(self) -> str:
        """The figure in words."""
        return "no bound" if self.value is None else f"epsilon {self.value:.2f}"

    def to_json(self) -> dict[str, float | int | None]:
        """The figure as ``result.json`` carries it."""
        return {"value": self.value, "delta": self.delta, "group_size": self.group_size}


@dataclass(frozen=True, kw_only=True)
class Confidentiality:
    """The three figures of a deletion; the module says what each one means.

    Args:
        phase: the unlearning transcript, in a forgotten unit's data.
        pair: everything before and after, against never having joined.
        who_asked: whether the unit left or stayed.
    """

    phase: EpsilonFigure
    pair: EpsilonFigure
    who_asked: EpsilonFigure

    def describe(self) -> str:
        """The figures in words, one line each."""
        return (
            f"phase      {self.phase.describe()} (whether it was there, from the rounds of the deletion)\n"
            f"pair       {self.pair.describe()} (whether it ever was, from everything before and after)\n"
            f"who asked  {self.who_asked.describe()} (whether it left or stayed)"
        )

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        """The figures as ``result.json`` carries them."""
        return {name: getattr(self, name).to_json() for name in ("phase", "pair", "who_asked")}


def confidentiality(
    ledger: PrivacyLedger,
    branch: str,
    *,
    forgotten: Collection[str],
    rounds: range | None = None,
    group_size: int = 1,
    delta: float | None = None,
) -> Confidentiality:
    """The three figures of one deletion, each the worst over the clients that hold forgotten units.

    Before its deletion a unit is one that stays: earlier rounds, training and earlier deletions alike, are charged at
    their retained charge. What comes after the deletion no longer reads it and costs it nothing.

    Args:
        ledger: what every release cost.
        branch: the branch that the deletion ran in; what its ancestors released counts.
        forgotten: names of the clients that hold forgotten units, at least one; those that no round touched have spent
            nothing.
        rounds: the numbers of the deletion's rounds, for a branch that executed more than one deletion; may be empty,
            then all rounds below ``rounds.start`` come before it. None for all unlearning rounds of the branch itself.
        group_size: number of one client's units that are hidden together.
        delta: None for the budget's.

    Raises:
        ArgumentError: an argument is outside its domain, or the branch is unknown.
    """
    size = positive_integer("group_size", group_size)
    at = ledger.budget.delta if delta is None else probability("delta", delta)
    if isinstance(forgotten, str) or not forgotten:
        raise ArgumentError("forgotten", forgotten, "a collection of at least one client name")
    if rounds is not None and rounds.step != 1:
        raise ArgumentError("rounds", rounds, "consecutive round numbers")
    before, during = _split(ledger, branch, rounds)
    phase, pair, who_asked = [0.0], [0.0], [0.0]
    # Clients that took part in the same rounds have the same figures: few are left.
    for paid, exchanged in {_spent(client, before, during) for client in forgotten}:
        sums = dict(exchanged)
        alone: Counter[GaussianSumEvent] = Counter()
        for one, count in sums.items():
            if one.left is not None:
                alone[one.left] += count
        phase.append(renyi_epsilon(alone, delta=at, group_size=size))
        pair.append(renyi_epsilon(alone + Counter(dict(paid)), delta=at, group_size=size))
        who_asked.append(exchange_epsilon(sums, delta=at, group_size=size))

    def worst(values: Iterable[float]) -> EpsilonFigure:
        largest = max(values)
        return EpsilonFigure(value=largest if math.isfinite(largest) else None, delta=at, group_size=size)

    return Confidentiality(phase=worst(phase), pair=worst(pair), who_asked=worst(who_asked))


def _split(ledger: PrivacyLedger, branch: str, rounds: range | None) -> tuple[list[LedgerEvent], list[LedgerEvent]]:
    """The rounds of the branch and its ancestors that came before the deletion, and those of the deletion."""
    own = list(ledger.events(branch))
    earlier: list[LedgerEvent] = []
    ancestor = ledger.branches[branch]
    while ancestor is not None:
        earlier += ledger.events(ancestor)
        ancestor = ledger.branches[ancestor]
    if rounds is None:
        during = [event for event in own if event.phase is Phase.UNLEARNING]
        first = min((event.round_number for event in during), default=None)
        return earlier + [e for e in own if first is None or e.round_number < first], during
    during = [event for event in own if event.phase is Phase.UNLEARNING and event.round_number in rounds]
    return [event for event in earlier + own if event.round_number < rounds.start], during


def _spent(
    client: str, before: list[LedgerEvent], during: list[LedgerEvent]
) -> tuple[frozenset[tuple[GaussianSumEvent, int]], frozenset[tuple[ExchangedSum, int]]]:
    """What a client's units paid before the deletion, and the sums of the deletion as they see them, with counts."""
    paid: Counter[GaussianSumEvent] = Counter()
    exchanged: Counter[ExchangedSum] = Counter()
    for event in before:
        charge = event.charges[Subject.RETAINED]
        if charge is not None and client in event.charged:
            paid[charge] += 1
    for event in during:
        left, stayed = event.charges[Subject.FORGOTTEN], event.charges[Subject.RETAINED]
        if client in event.charged and not (left is None and stayed is None):
            exchanged[ExchangedSum(left=left, stayed=stayed)] += 1
    return frozenset(paid.items()), frozenset(exchanged.items())
