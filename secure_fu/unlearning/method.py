"""The protocol that every unlearning method fulfils: one file behind five members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from secure_fu.errors import ArgumentError
from secure_fu.protocol import LocalTask, SecureSums
from secure_fu.training import OnRound, Recipe, Silo, TrainingState, no_observer
from secure_fu.unlearning.guarantee import Guarantee

__all__ = ["Deletion", "UnlearningMethod"]


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What the server may know of a deletion when it runs a method; all of it public or released.

    Attributes:
        recipe: how the original model was trained.
        states: the state after each training round, `states[0]` before the first; all functions of released sums.
        joined_at: number of training rounds behind the newest state that no forgotten unit had been charged for.
        forgotten_units: how many units are to be forgotten, the size of the group that a certificate is about.
        unit_epsilon: epsilon that a group of the forgotten units' size had paid after a number of training rounds,
            from the ledger, for the units that paid most; None where it is infinite.
        delta: at which epsilon is stated.
    """

    recipe: Recipe
    states: tuple[TrainingState, ...]
    joined_at: int
    forgotten_units: int
    unit_epsilon: Callable[[int], float | None]
    delta: float

    def __post_init__(self) -> None:
        if len(self.states) != self.recipe.rounds + 1:
            raise ArgumentError(
                "states", f"{len(self.states)} states", f"{self.recipe.rounds + 1}, one a round and one"
            )
        if not 0 <= self.joined_at <= self.recipe.rounds:
            raise ArgumentError("joined_at", self.joined_at, f"between 0 and {self.recipe.rounds}")
        if self.forgotten_units < 1:
            raise ArgumentError("forgotten_units", self.forgotten_units, "at least 1")

    @property
    def original(self) -> TrainingState:
        """The state that is to forget."""
        return self.states[-1]


class UnlearningMethod(ABC):
    """One way to forget, on secure sums only.

    A method is a frozen dataclass of its public settings. Its client-side code is a
    :class:`~secure_fu.protocol.LocalTask` over a :class:`~secure_fu.training.Silo`; its server-side code sees
    released sums and nothing else.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    @property
    def purpose(self) -> str:
        """Purpose of the method's rounds."""
        return f"unlearn/{self.name}"

    @abstractmethod
    def rounds(self, deletion: Deletion) -> int:
        """How many rounds a run will take; public, known beforehand."""

    @abstractmethod
    def start_state(self, deletion: Deletion) -> TrainingState:
        """The released state that a run begins from."""

    @abstractmethod
    def guarantee(self, deletion: Deletion) -> Guarantee:
        """What a run guarantees about forgetting; known beforehand."""

    @abstractmethod
    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """The code that a client runs for this method, by purpose."""

    @abstractmethod
    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> TrainingState:
        """Unlearn.

        Raises:
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
        """
