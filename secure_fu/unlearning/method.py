"""The protocol that every unlearning method fulfils: one file behind a handful of members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, final

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel
from secure_fu.protocol import LocalTask, SecureSums
from secure_fu.training import OnRound, Recipe, Silo, TrainingState, no_observer
from secure_fu.unlearning.guarantee import Guarantee

__all__ = ["Checkpoints", "Deletion", "Outcome", "PlannedRounds", "UnlearningMethod"]


class Checkpoints(Protocol):
    """States of training that the server still has, on a public grid."""

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds of training behind each of them, ascending; the first is 0, the public start."""

    def load(self, rounds: int) -> TrainingState:
        """The state after so many rounds of training, with the optimiser as it was then.

        Raises:
            CheckpointError: it is missing, corrupt, or of another model.
        """


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What the server may know of a deletion when it runs a method; all of it public or released.

    Attributes:
        recipe: how the original model was trained.
        model: the architecture, with the public start as its parameters.
        checkpoints: states that training went through.
        original: the state that is to forget.
        joined_at: number of training rounds behind the newest checkpoint, or behind the original, that no forgotten
            unit had been charged for.
        forgotten_units: how many units are to be forgotten, the size of the group that a certificate is about.
        unit_epsilon: epsilon that a group of the forgotten units' size had paid for the checkpoint after a number of
            training rounds, from the ledger, for the units that paid most; None where it is infinite.
        last_epsilon: the same for all that was released before the request.
        untouched: whether no round that was released has charged a forgotten unit.
        delta: at which epsilon is stated.
        assured: shares of noise that are in each sum for certain, minimum cohort - colluders.
        cohort: number of clients that a round invites now.
        adaptive: whether the request may have been chosen after seeing models that the data had a part in.
        declared: whether a method, with its settings, was fixed before training.
        earlier: guarantees of the deletions that were executed before.
    """

    recipe: Recipe
    model: FlatModel
    checkpoints: Checkpoints
    original: TrainingState
    joined_at: int
    forgotten_units: int
    unit_epsilon: Callable[[int], float | None]
    last_epsilon: float | None
    untouched: bool
    delta: float
    assured: int
    cohort: int
    adaptive: bool
    declared: Callable[[UnlearningMethod], bool]
    earlier: tuple[Guarantee, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.joined_at <= self.original.rounds:
            raise ArgumentError("joined_at", self.joined_at, f"between 0 and {self.original.rounds}")
        if self.forgotten_units < 1:
            raise ArgumentError("forgotten_units", self.forgotten_units, "at least 1")

    @property
    def rounds(self) -> int:
        """Rounds of training behind the original."""
        return self.original.rounds


@dataclass(frozen=True, kw_only=True)
class PlannedRounds:
    """Equal rounds that a method will ask for; public, known beforehand. Fields as in a request for a sum.

    Attributes:
        count: how many.
        length: coordinates of the sum.
    """

    count: int
    retained_rate: float
    forgotten_rate: float
    noise_multiplier: float
    clip_norm: float
    saturation: float
    length: int

    @classmethod
    def of(cls, deletion: Deletion, count: int, *, forgotten_rate: float, retained_rate: float | None = None) -> Self:
        """Rounds at the recipe's terms.

        Args:
            retained_rate: the recipe's sampling rate unless given.
        """
        recipe = deletion.recipe
        return cls(
            count=count,
            retained_rate=recipe.sampling_rate if retained_rate is None else retained_rate,
            forgotten_rate=forgotten_rate,
            noise_multiplier=recipe.noise_multiplier,
            clip_norm=recipe.clip_norm,
            saturation=recipe.saturation,
            length=deletion.model.dimension,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run ends in.

    Attributes:
        state: with the model that has forgotten.
        guarantee: about forgetting; no weaker than what was promised beforehand.
    """

    state: TrainingState
    guarantee: Guarantee


class UnlearningMethod(ABC):
    """One way to forget, on secure sums only.

    A method is a frozen dataclass of its public settings. Its client-side code is a
    :class:`~secure_fu.protocol.LocalTask` over a :class:`~secure_fu.training.Silo`; its server-side code sees
    released sums and nothing else.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    baseline: ClassVar[bool] = False
    """Whether it is there to be beaten, and not to be used."""
    needs_history: ClassVar[bool] = False
    """Whether clients have to keep what they contributed to training, from the first round on."""

    @property
    def purpose(self) -> str:
        """Purpose of the method's rounds."""
        return f"unlearn/{self.name}"

    def check(self, deletion: Deletion) -> None:  # noqa: B027 - most methods serve every deletion
        """Before anything is asked of a client.

        Raises:
            MethodRefused: this method cannot serve this deletion.
        """

    @abstractmethod
    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """The rounds that a run will ask for, in any order; public, known beforehand."""

    @final
    def rounds(self, deletion: Deletion) -> int:
        """How many rounds a run will take."""
        return sum(planned.count for planned in self.plan(deletion))

    def most_rounds(self, trained: int) -> int:
        """Most rounds that a run can take after so many rounds of training; for planning, before any deletion."""
        return trained

    def start_state(self, deletion: Deletion) -> TrainingState:
        """The state that a run begins from, a function of released ones: the original, its optimiser at rest.

        Raises:
            CheckpointError: the checkpoint that it needs is missing or corrupt.
        """
        return deletion.original.at_rest()

    @abstractmethod
    def guarantee(self, deletion: Deletion) -> Guarantee:
        """What a run guarantees about forgetting, at least; known beforehand."""

    @abstractmethod
    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """The code that a client runs for this method, by purpose."""

    @abstractmethod
    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """Unlearn.

        The result is a function of the deletion and of what `sums` released: an interrupted run is repeated from its
        releases.

        Raises:
            BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
            GuaranteeError: what was promised was not reached; nothing may be published.
        """
