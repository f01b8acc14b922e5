"""What a method claims about forgetting, held against the ledger, whoever wrote the method.

`Heuristic` and `Baseline` claim nothing. What is checked of the others: which rounds charged the forgotten units, the
state that the method starts from, and that the figures are no smaller than the ledger's. The server's own arithmetic
between the rounds is the method's: nobody checks it here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from secure_fu.errors import ArgumentError, GuaranteeError
from secure_fu.privacy import ChargedRounds, gaussian_epsilon
from secure_fu.protocol import ReleasedModel
from secure_fu.training import TrainingState
from secure_fu.unlearning.guarantee import (
    NOT_ADAPTIVE,
    Baseline,
    Certified,
    CertifiedModel,
    Exact,
    Guarantee,
    Heuristic,
    satisfies,
)
from secure_fu.unlearning.method import Deletion, PlannedRounds, UnlearningMethod

__all__ = ["check_claim", "claimed_start", "counted_in_all", "enters", "if_adaptive", "keeps", "kept_start"]

_TOLERANCE: Final = 1e-6


def enters(planned: tuple[PlannedRounds, ...]) -> bool:
    """Whether forgotten units enter any of these rounds."""
    return any(rounds.count > 0 and rounds.forgotten_rate > 0.0 for rounds in planned)


def kept_start(method: UnlearningMethod, deletion: Deletion) -> int | None:
    """Rounds of training behind the kept state that a method starts from, its optimiser as it was then or at rest.

    Returns:
        None if the start is no state that the server kept: it may then be a function of any.

    Raises:
        CheckpointError: the checkpoint that the method needs is missing or corrupt.
    """
    start, kept = method.start_state(deletion), deletion.checkpoints
    if start.rounds in kept.rounds and _is(start, kept.load(start.rounds)):
        return start.rounds
    return deletion.rounds if _is(start, deletion.original) else None


def claimed_start(method: UnlearningMethod, claim: Guarantee, deletion: Deletion) -> ReleasedModel | None:
    """The model that a run has to begin with for a claim to hold; None where it may be any that was released.

    Raises:
        CheckpointError: the checkpoint that the method needs is missing or corrupt.
    """
    rests = isinstance(claim, Exact | Certified) and not isinstance(claim, CertifiedModel)
    if not rests or kept_start(method, deletion) is None:
        return None
    return method.start_state(deletion).model


def keeps(promised: Guarantee, reached: Guarantee) -> bool:
    """Whether what was reached is no weaker than what was promised."""
    if reached == promised or not isinstance(promised, Exact | Certified):
        return True
    if isinstance(promised, Certified) and promised.epsilon is None:
        return isinstance(reached, Exact | Certified)
    return satisfies(reached, type(promised), epsilon=getattr(promised, "epsilon", None))


def _is(start: TrainingState, kept: TrainingState) -> bool:
    same_velocity = not start.velocity.any() or np.array_equal(start.velocity, kept.velocity)
    return start.model.digest == kept.model.digest and same_velocity


def check_claim(method: UnlearningMethod, claim: Guarantee, deletion: Deletion, *, entered: bool) -> None:
    """Refuse a claim that the ledger does not bear out.

    Formal guarantees:
        Exact: no forgotten unit entered a round, and the start is a kept state that none had been charged for; where
        request or settings may have been chosen late, none was charged for anything that was released. Certified:
        none entered a round, and epsilon is no smaller than what the ledger charged the group for the start, or for
        everything released where the start is no kept state or something was chosen late. `CertifiedModel`: epsilon is
        no smaller than its shift and its noise give. All for as many units as asked, at the federation's delta.
    Not guaranteed:
        That the shift of a `CertifiedModel` is a bound, or that the method's server does what its paper says.

    Args:
        claim: as promised beforehand, or as reached.
        entered: whether forgotten units enter the rounds of the run, or did.

    Raises:
        GuaranteeError: names the method, its claim and what speaks against it.
        CheckpointError: the checkpoint that the method needs is missing or corrupt.
    """
    against = _form(claim)
    if against is None and isinstance(claim, Certified):
        against = _numbers(claim, deletion)
    if against is None and isinstance(claim, Exact | Certified) and not isinstance(claim, CertifiedModel):
        against = _charges(method, claim, deletion, entered=entered)
    if against is not None:
        raise GuaranteeError(
            f"method {method.name!r} claims: {claim.describe()} But {against}; expected a claim that the ledger bears "
            "out, or Heuristic"
        )


def _form(claim: Guarantee) -> str | None:
    """What is written down of a claim, and what is required of it, goes by its type and its kind: they have to fit."""
    kinds: dict[type, str] = {Exact: "exact", Certified: "certified", CertifiedModel: "certified"}
    kinds |= {Heuristic: "heuristic", Baseline: "baseline"}
    fits = kinds.get(type(claim)) == claim.kind
    return None if fits else f"it is a {type(claim).__name__} of kind {claim.kind!r}"


def _numbers(claim: Certified, deletion: Deletion) -> str | None:
    if claim.group_size != deletion.forgotten_units:
        return f"{deletion.forgotten_units} units are to be forgotten"
    if claim.delta != deletion.delta:
        return f"the federation's delta is {deletion.delta:g}"
    if claim.epsilon is not None and not 0.0 <= claim.epsilon < math.inf:
        return "epsilon is no finite number that is not negative"
    if isinstance(claim, CertifiedModel) and claim.epsilon is not None:
        try:
            least = gaussian_epsilon(claim.shift, claim.output_noise, claim.delta)
        except ArgumentError as error:
            return f"its figures give no epsilon: {error}"
        return None if claim.epsilon >= least * (1.0 - _TOLERANCE) else f"shift and noise give epsilon {least:.6g}"
    return None


def _charges(method: UnlearningMethod, claim: Exact | Certified, deletion: Deletion, *, entered: bool) -> str | None:
    exact = isinstance(claim, Exact)
    chosen_late = deletion.adaptive or not deletion.declared(method)
    kept = kept_start(method, deletion)
    charged = ChargedRounds(
        deletion=entered, basis=kept is None or kept > deletion.joined_at, released=not deletion.untouched
    )
    objection = charged.objection(exact=exact, chosen_late=chosen_late)
    if objection is not None or isinstance(claim, Exact) or claim.epsilon is None:
        return objection
    counts_all = chosen_late or kept is None or kept not in deletion.checkpoints.rounds
    least = deletion.last_epsilon if counts_all else deletion.unit_epsilon(kept or 0)
    if least is None or claim.epsilon < least * (1.0 - _TOLERANCE):
        return f"the ledger charged the units epsilon {math.inf if least is None else least:.6g}"
    return None


def counted_in_all(deletion: Deletion, choice: str) -> Certified:
    """What is left where something may have been chosen after seeing models: what the units paid for all of them.

    Args:
        choice: what may have been chosen, as the beginning of a sentence.
    """
    return Certified(
        epsilon=deletion.last_epsilon,
        delta=deletion.delta,
        group_size=deletion.forgotten_units,
        reason=f"{choice} may have been chosen after seeing the models released before, for which the ledger "
        f"charged the forgotten units this much",
        assumptions=(),
    )


def if_adaptive(reached: Guarantee, deletion: Deletion) -> Guarantee:
    """What is left of a guarantee, of whatever method, once a request may depend on the models in between.

    A `CertifiedModel` stays: it takes the request as given and says so. Heuristics and baselines have nothing to lose.
    """
    if not isinstance(reached, Exact | Certified) or isinstance(reached, CertifiedModel):
        return reached
    if deletion.untouched:
        return replace(reached, assumptions=tuple(one for one in reached.assumptions if one != NOT_ADAPTIVE))
    left = counted_in_all(deletion, "the request")
    if isinstance(reached, Exact) or left.epsilon is None:
        return left
    return replace(left, epsilon=None if reached.epsilon is None else max(left.epsilon, reached.epsilon))
