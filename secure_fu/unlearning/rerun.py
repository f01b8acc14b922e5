"""Training rounds without the forgotten data: what retraining, rollback and the baselines share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, final

from secure_fu.privacy import Phase
from secure_fu.protocol import LocalTask, SecureSums
from secure_fu.training import OnRound, Silo, TrainingState, no_observer, train, training_task
from secure_fu.unlearning.claims import counted_in_all
from secure_fu.unlearning.guarantee import NOT_ADAPTIVE, Certified, Exact
from secure_fu.unlearning.method import Deletion, Outcome, PlannedRounds, UnlearningMethod

__all__ = ["Rerun", "TrainingRounds", "train_without"]


def train_without(
    sums: SecureSums,
    deletion: Deletion,
    state: TrainingState,
    rounds: int,
    *,
    purpose: str,
    counts_as_training: bool = False,
    on_round: OnRound = no_observer,
) -> TrainingState:
    """Rounds of training, for a method, that no forgotten unit enters."""
    return train(
        sums,
        deletion.recipe,
        state,
        rounds,
        purpose=purpose,
        phase=Phase.UNLEARNING,
        forgotten_rate=0.0,
        training=counts_as_training,
        on_round=on_round,
    )


class TrainingRounds(UnlearningMethod):
    """Run training rounds in which every client leaves its own forgotten records out.

    Formal guarantees:
        No sum of these rounds is a function of a forgotten record, nor of how many there are: every upload looks the
        same. A client that leaves altogether sends zero and its noise share.
    """

    counts_as_training: ClassVar[bool] = False
    """Whether the rounds count as rounds of training in the state."""

    @abstractmethod
    def training_rounds(self, deletion: Deletion) -> int:
        """How many rounds; public, known beforehand."""

    @final
    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """Rounds of training that no forgotten unit enters."""
        return (PlannedRounds.of(deletion, self.training_rounds(deletion), forgotten_rate=0.0),)

    @final
    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """The code of training; it leaves forgotten records out."""
        return {self.purpose: training_task(silo)}

    @final
    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """See :meth:`UnlearningMethod.run`."""
        state = train_without(
            sums,
            deletion,
            self.start_state(deletion),
            self.training_rounds(deletion),
            purpose=self.purpose,
            counts_as_training=self.counts_as_training,
            on_round=on_round,
        )
        return Outcome(state=state, guarantee=self.guarantee(deletion))


class Rerun(TrainingRounds):
    """Train on, without the forgotten data, from one of the states that training went through.

    Formal guarantees:
        Exact if the ledger charged the forgotten units nothing up to that state; otherwise certified, with what it
        charged those units, as a group: all that follows is post-processing of the state and fresh sums without them.
        Optimiser state goes back with the model. The cohort is public and the branch's: who is there at the deletion,
        from its first round on, the leaver with its noise share.

        Both need a re-run in which nothing was chosen after seeing models that the data had a part in. Where the
        request may have been (`Deletion.adaptive`), or the settings were not declared before training
        (`Deletion.declared`), the certificate is that of all that had been released: what the choice can have taken
        from it.
    """

    counts_as_training = True

    @abstractmethod
    def checkpoint(self, deletion: Deletion) -> int:
        """Number of training rounds behind the state that a run starts from; public, known beforehand."""

    @final
    def start_state(self, deletion: Deletion) -> TrainingState:
        """The state at the checkpoint, with the optimiser as it was then."""
        return deletion.checkpoints.load(self.checkpoint(deletion))

    @final
    def guarantee(self, deletion: Deletion) -> Exact | Certified:
        """What follows from the checkpoint and the ledger; no subclass can claim more."""
        kept = self.checkpoint(deletion)
        chosen_late = deletion.adaptive or not deletion.declared(self)
        if kept <= deletion.joined_at and (not chosen_late or deletion.untouched):
            return Exact(self._why_exact(kept, deletion), assumptions=() if chosen_late else (NOT_ADAPTIVE,))
        if chosen_late:
            choice = (
                "the request"
                if deletion.adaptive
                else "the method's settings were not declared before training (methods= of the federation) and"
            )
            return counted_in_all(deletion, choice)
        return Certified(
            epsilon=deletion.unit_epsilon(kept),
            delta=deletion.delta,
            group_size=deletion.forgotten_units,
            reason=f"it goes back to round {kept}, up to which the ledger charged the forgotten units this much",
            assumptions=(NOT_ADAPTIVE,),
        )

    def _why_exact(self, kept: int, deletion: Deletion) -> str:
        if kept > 0:
            return (
                f"it goes back to round {kept}, before the data took part, and trains on without it, with fresh noise"
            )
        again = "it is trained again without the data, with fresh noise, under the same public settings"
        rounds = self.training_rounds(deletion)
        return again if rounds == deletion.rounds else f"{again}, but for {rounds} rounds only"
