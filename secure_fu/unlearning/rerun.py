"""What retraining, rollback and the baselines share: training rounds without the forgotten data, from some released state."""

from __future__ import annotations

from collections.abc import Mapping

from secure_fu.privacy import Phase
from secure_fu.protocol import LocalTask, SecureSums
from secure_fu.training import OnRound, Silo, TrainingState, no_observer, train, training_task
from secure_fu.unlearning.method import Deletion, UnlearningMethod

__all__ = ["Rerun"]


class Rerun(UnlearningMethod):
    """Run training rounds in which every client leaves its own forgotten records out."""

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        return {self.purpose: training_task(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> TrainingState:
        return train(
            sums,
            deletion.recipe,
            self.start_state(deletion),
            self.rounds(deletion),
            purpose=self.purpose,
            phase=Phase.UNLEARNING,
            forgotten_rate=0.0,
            on_round=on_round,
        )
