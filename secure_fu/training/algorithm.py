"""Federated training, written against the secure sum alone."""

from __future__ import annotations

from collections.abc import Callable

from secure_fu.privacy import Phase
from secure_fu.protocol import SecureSums
from secure_fu.training.recipe import Recipe, TrainingState

__all__ = ["TRAIN", "OnRound", "no_observer", "train"]

TRAIN = "train"

OnRound = Callable[[TrainingState], None]


def no_observer(_state: TrainingState) -> None:
    """An observer of rounds that does nothing."""


def train(
    sums: SecureSums,
    recipe: Recipe,
    state: TrainingState,
    rounds: int,
    *,
    purpose: str = TRAIN,
    phase: Phase = Phase.TRAINING,
    forgotten_rate: float | None = None,
    training: bool = True,
    on_round: OnRound = no_observer,
) -> TrainingState:
    """Run training rounds from `state`.

    Args:
        sums: where secure sums come from.
        recipe: public settings.
        state: to go on from.
        rounds: how many to run.
        purpose: of the rounds; the clients run their code for it.
        phase: for the ledger.
        forgotten_rate: sampling rate of units that are to be forgotten; the recipe's own unless given, 0 after a
            deletion.
        training: whether they count as rounds of training in the state.
        on_round: called with the state after each round.

    Returns:
        the state after the last round.

    Raises:
        BudgetExceededError, RoundAborted: as :meth:`~secure_fu.protocol.SecureSums.secure_sum`.
    """
    rate = recipe.sampling_rate if forgotten_rate is None else forgotten_rate
    for _ in range(rounds):
        request = recipe.request(purpose=purpose, phase=phase, model=state.model, forgotten_rate=rate)
        state = state.step(sums.secure_sum(request), recipe, training=training)
        on_round(state)
    return state
