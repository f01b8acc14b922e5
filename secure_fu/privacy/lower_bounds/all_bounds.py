"""All lower bounds of one run, on scores that were made after everything was registered."""

from __future__ import annotations

from numpy.typing import ArrayLike

from secure_fu.errors import ArgumentError
from secure_fu.privacy.lower_bounds._inputs import game
from secure_fu.privacy.lower_bounds.bound import EpsilonBound
from secure_fu.privacy.lower_bounds.counting import counting_bound
from secure_fu.privacy.lower_bounds.f_dp import f_dp_bound
from secure_fu.privacy.lower_bounds.gaussian_scores import gaussian_bound
from secure_fu.privacy.lower_bounds.mean import mean_bound
from secure_fu.privacy.lower_bounds.one_run import one_run_bound
from secure_fu.privacy.lower_bounds.registration import Registered

__all__ = ["lower_bounds"]


def lower_bounds(
    scores: ArrayLike,
    inserted: ArrayLike,
    *,
    delta: float,
    level: float = 0.95,
    registered: Registered,
    noise: ArrayLike | None = None,
) -> tuple[EpsilonBound, ...]:
    """Every bound of one run, from the one that assumes least to the one that assumes most.

    Each has its level by itself; their maximum has not. A verdict goes by one that was named beforehand, or by all with
    the level shared out among them.

    Args:
        scores: one a canary, shape (m,); larger speaks for insertion.
        inserted: the coins, booleans of shape (m,).
        delta: the delta of the claim.
        level: one-sided confidence level of each.
        registered: what was settled before the scores were seen.
        noise: for :func:`mean_bound`.

    Returns:
        One run, f-DP, Clopper-Pearson, Gaussian scores, mean test.

    Raises:
        ArgumentError: arrays that do not fit, another number of canaries than registered, fewer than two canaries
        inserted or left out, or an argument outside its domain.
    """
    values, coins = game(scores, inserted)
    if len(values) != registered.canaries:
        raise ArgumentError("scores", f"{len(values)} scores", f"as many as registered, {registered.canaries}")
    inside, outside = values[coins], values[~coins]
    if min(len(inside), len(outside)) < 2:
        raise ArgumentError(
            "inserted", f"{len(inside)} of {len(values)}", "at least two canaries inserted and two left out"
        )
    return (
        one_run_bound(values, coins, guesses=registered.guesses, delta=delta, level=level),
        f_dp_bound(values, coins, guesses=registered.f_dp_guesses, delta=delta, level=level),
        counting_bound(inside, outside, threshold=registered.threshold, delta=delta, level=level),
        gaussian_bound(inside, outside, delta=delta, level=level),
        mean_bound(inside, outside, centre=registered.centre, noise=noise, delta=delta, level=level),
    )
