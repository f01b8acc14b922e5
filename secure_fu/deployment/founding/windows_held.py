"""How many deletion windows a federation's budget holds beside its training: told when it is founded."""

from __future__ import annotations

from typing import Final

from secure_fu.deployment.founding.terms import Terms, model_of
from secure_fu.errors import ConfigError
from secure_fu.federation.costs import dearest_events
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan, spare_rounds
from secure_fu.privacy import budgeted_times
from secure_fu.unlearning import PlannedRounds

__all__ = ["FEW_WINDOWS", "check_cover", "window_rounds", "windows_held"]

FEW_WINDOWS: Final = 6
"""With fewer windows in the budget, cover is soon over; whoever founds the federation is told."""


def window_rounds(terms: Terms, plan: Plan) -> int:
    """Most rounds that a window takes after all of training."""
    return terms.chosen.most_rounds(plan.recipe.rounds)


def windows_held(terms: Terms, plan: Plan, *, clients: int) -> int:
    """How many windows the budget holds beside training, each after all of training and as long as its method can be.

    Reckoned at the noise and rate of training, with rounds to spare for such as come to nothing. A window that is
    shorter, as one of people who joined late can be, takes less; one whose method asks for other noise another part.

    Args:
        terms: what the federation is founded on.
        plan: made from them.
        clients: how many there are.

    Returns:
        0 or more.
    """
    recipe = plan.recipe
    one = PlannedRounds(
        count=1,
        retained_rate=recipe.sampling_rate,
        forgotten_rate=0.0,
        noise_multiplier=recipe.noise_multiplier,
        clip_norm=recipe.clip_norm,
        saturation=recipe.saturation,
        length=FlatModel(model_of(terms.model)).dimension,
    )
    (event,) = dearest_events([one], plan=plan, cohort=clients)
    each = max(1, window_rounds(terms, plan))
    first = recipe.rounds + spare_rounds(recipe.rounds)
    return max(0, budgeted_times(plan.budget, event, first=first, each=each + spare_rounds(each)))


def check_cover(terms: Terms, plan: Plan, *, clients: int) -> None:
    """Return only if cover can be had: a window for nobody is run only while one that somebody asks for still fits.

    Raises:
        ConfigError: `deletion.cover` with a budget for fewer than two windows.
    """
    held = windows_held(terms, plan, clients=clients)
    if terms.deletion.cover and held < 2:
        expected = (
            f"false, or a budget that holds more windows than {held}: one for cover runs only while one that somebody "
            "asks for still fits; raise plan.deletion_reserve, at most N / (N + 1) for N windows as long as training"
        )
        raise ConfigError("deletion.cover", True, expected)
