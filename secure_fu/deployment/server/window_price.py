"""Whether the budget holds a deletion window: told before it is opened, from the ledger, which is public, alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from secure_fu.errors import BudgetExceededError
from secure_fu.federation.costs import dearest_events
from secure_fu.planning import Plan, spare_rounds
from secure_fu.privacy import GaussianSumEvent, PrivacyLedger, shortfall
from secure_fu.unlearning import Deletion, PlannedRounds, UnlearningMethod

__all__ = ["check_price", "check_rest"]


def check_price(
    deletion: Deletion,
    method: UnlearningMethod,
    *,
    plan: Plan,
    ledger: PrivacyLedger,
    cohort: Collection[str],
    for_nobody: bool,
) -> None:
    """Return only if a window fits the budget of each client of the cohort.

    Formal guarantees:
        A window that this lets pass has, if every round is answered at the first asking, no round that the budget
        refuses. A window for nobody, which runs for cover, is let pass only if the rest of training and one deletion
        of a whole training would still fit after it, with rounds to spare for such as come to nothing: an empty window
        takes nothing that a real one will need.
        The answer is a function of the ledger, the plan and the policy, and of the open parts of the requests; all of
        them are public. That a window was not opened for its price tells nothing of what clients were asked in private.
    Not guaranteed:
        Cover, once the budget holds no more of it: from then on a window that runs shows that somebody asked.

    Args:
        deletion: that the window would execute.
        method: that it would execute it with.
        plan: of the federation.
        ledger: what was charged up to now.
        cohort: clients that its rounds would invite.
        for_nobody: whether nobody is known to have asked.

    Raises:
        BudgetExceededError: it does not fit; names the client, the epsilon that it would come to, and the budget.
    """
    planned = method.plan(deletion)
    price = dearest_events(planned, plan=plan, cohort=len(cohort))
    short = shortfall(ledger, price, cohort=cohort)
    rounds = sum(one.count for one in planned)
    if short is not None:
        said = "1 round" if rounds == 1 else f"{rounds} rounds"
        raise BudgetExceededError(f"the budget does not hold its {said}: after them {short}")
    if for_nobody:
        short = shortfall(ledger, price + _reserve(planned, deletion, method, plan, len(cohort)), cohort=cohort)
        if short is not None:
            raise BudgetExceededError(
                f"nobody asked, and after its {rounds} rounds for cover the budget would not hold a deletion that "
                f"somebody asks for: after that one {short}"
            )


def check_rest(
    planned: Sequence[PlannedRounds], *, released: int, plan: Plan, ledger: PrivacyLedger, cohort: Collection[str]
) -> None:
    """Return only if what is left of a window that has set out fits the budget of each client of the cohort.

    Reckoned as :func:`check_price` does, from what is public alone. So a window is not gone on with, and costs nothing
    more, once rounds that came to nothing have taken what it would need to end.

    Args:
        planned: all its rounds.
        released: how many of them are released and will not be asked for again; they are taken for the dearest ones.
        plan, ledger, cohort: as of :func:`check_price`.

    Raises:
        BudgetExceededError: it does not fit; names the client, the epsilon that it would come to, and the budget.
    """
    whole = dearest_events(planned, plan=plan, cohort=len(cohort))
    left = sorted(whole.elements(), key=lambda one: (one.sampling_rate, -one.noise_multiplier))
    left = left[: max(0, len(left) - released)]
    short = shortfall(ledger, Counter(left), cohort=cohort)
    if left and short is not None:
        rounds = "last round" if len(left) == 1 else f"last {len(left)} rounds"
        raise BudgetExceededError(f"the budget does not hold its {rounds}: after them {short}")


def _reserve(
    planned: Sequence[PlannedRounds], deletion: Deletion, method: UnlearningMethod, plan: Plan, cohort: int
) -> Counter[GaussianSumEvent]:
    """What has to be left after a window for cover."""
    recipe = plan.recipe
    training = max(0, recipe.rounds - deletion.rounds)
    count = sum(one.count for one in planned)
    longest = max(count, method.most_rounds(recipe.rounds))
    spare = spare_rounds(recipe.rounds) if training else 0
    more = training + spare + longest - count + spare_rounds(count) + spare_rounds(longest)
    later = [*planned, PlannedRounds.of(deletion, more, forgotten_rate=recipe.sampling_rate)]
    return dearest_events(later, plan=plan, cohort=cohort)
