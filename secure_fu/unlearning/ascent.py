"""Ascent: climb the loss of what is to be forgotten, inside a ball around the original, then train on without it.

Projected gradient ascent after Halimi, Kadhe, Rawat, Baracaldo 2022 (arXiv 2207.05521), on sums. The paper's ball is
around the average of the other clients' models, and the client that leaves climbs alone; under secure aggregation
nobody knows a single client's model. So the ball is around the original, the server projects, and the others train on
in the same sums: without them the model is lost long before the data is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError
from secure_fu.learning import cross_entropy
from secure_fu.privacy import Phase
from secure_fu.protocol import LocalTask, ReleasedModel, RoundTerms, SecureSums
from secure_fu.training import OnRound, Silo, clipped_gradients, no_observer
from secure_fu.unlearning.guarantee import Heuristic
from secure_fu.unlearning.joint import JointTask
from secure_fu.unlearning.method import Deletion, Outcome, PlannedRounds, UnlearningMethod
from secure_fu.unlearning.rerun import train_without

__all__ = ["Ascent"]


def _uphill(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits, labels)


class _AscentTask(JointTask):
    """Minus the gradient of the training loss of forgotten units, beside the training step of retained ones.

    Formal guarantees:
        Every unit contributes once, with L2 norm at most the clip norm, as :class:`JointTask` asks of its subclasses:
        the gradient of a forgotten record or group is scaled to the clip norm, whatever its length, and a client that
        leaves sends one clipped update of local training uphill. What is not finite counts as zero.

    Scaled up, for plain ascent stalls where it is needed most: the better the model knows a record, the shorter is
    the gradient of its loss.
    """

    def _of_units(
        self, sampled: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        return -clipped_gradients(self._silo, model, self._silo.records.subset(sampled), terms, normalise=True)

    def _of_client(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        return self._descent(_uphill, model, terms)


@dataclass(frozen=True, kw_only=True)
class Ascent(UnlearningMethod):
    """Rounds up the loss of the forgotten units while the others train on, then rounds of the others alone.

    The loss climbed has no bound, so the ball is what ends the climb. The defaults were found on `digits-silos` and
    hold on `mnist-silos`.

    Attributes:
        length: rounds of ascent.
        recovery: rounds of training that follow, which forgotten units do not enter.
        radius: of the ball around the original that ascent stays in, as a part of the distance from the public start
            to the original.
        rate_factor: learning rate of ascent rounds over that of training.

    Raises:
        ArgumentError: a setting is out of its domain.
    """

    length: int = 10
    recovery: int = 5
    radius: float = 0.35
    rate_factor: float = 2.0

    name: ClassVar[str] = "ascent"
    title: ClassVar[str] = "Projected ascent"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 round")
        if self.recovery < 0:
            raise ArgumentError("recovery", self.recovery, "at least 0 rounds")
        for name in ("radius", "rate_factor"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ArgumentError(name, getattr(self, name), "a positive finite number")

    def plan(self, deletion: Deletion) -> tuple[PlannedRounds, ...]:
        """`length` rounds that both kinds of units enter, and `recovery` rounds for the retained ones."""
        climb = PlannedRounds.of(deletion, self.length, forgotten_rate=deletion.recipe.sampling_rate)
        if self.recovery == 0:
            return (climb,)
        return climb, PlannedRounds.of(deletion, self.recovery, forgotten_rate=0.0)

    def most_rounds(self, trained: int) -> int:
        """`length` and `recovery` together."""
        return self.length + self.recovery

    def guarantee(self, deletion: Deletion) -> Heuristic:
        """No more than what the rounds do, in words."""
        return Heuristic(
            f"{self.length} rounds climb the loss of the forgotten data inside a ball around the original model while "
            f"the others train on, and {self.recovery} rounds train on without it"
        )

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`."""
        return {self.purpose: _AscentTask(silo)}

    def run(self, sums: SecureSums, deletion: Deletion, on_round: OnRound = no_observer) -> Outcome:
        """See :meth:`UnlearningMethod.run`."""
        recipe, state = deletion.recipe, self.start_state(deletion)
        centre = state.model
        travelled = centre.vector.astype(np.float64) - deletion.model.vector()
        radius = self.radius * float(np.linalg.norm(travelled))
        for _ in range(self.length):
            request = recipe.request(
                purpose=self.purpose,
                phase=Phase.UNLEARNING,
                model=state.model,
                forgotten_rate=recipe.sampling_rate,
            )
            state = state.step(sums.secure_sum(request), recipe, rate_factor=self.rate_factor, training=False)
            state = replace(state, model=_projected(state.model, centre, radius))
            on_round(state)
        state = train_without(
            sums,
            deletion,
            state.at_rest(),
            self.recovery,
            purpose=self.purpose,
            on_round=on_round,
        )
        return Outcome(state=state, guarantee=self.guarantee(deletion))


def _projected(model: ReleasedModel, centre: ReleasedModel, radius: float) -> ReleasedModel:
    """The nearest model in the L2 ball, up to the rounding of its parameters to float32."""
    start = centre.vector.astype(np.float64)
    way = model.vector.astype(np.float64) - start
    length = float(np.linalg.norm(way))
    return model if length <= radius else model.derived(start + way * (radius / length), centre)
