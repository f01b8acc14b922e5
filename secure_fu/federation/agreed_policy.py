"""What every party of a federation pins, from its plan."""

from __future__ import annotations

from secure_fu.crypto import CommitteeTerms, Roster
from secure_fu.planning import Plan
from secure_fu.protocol import Policy

__all__ = ["policy_of"]


def policy_of(
    plan: Plan,
    *,
    roster: Roster,
    server: str,
    committee: tuple[str, ...],
    terms: CommitteeTerms,
    purposes: frozenset[str],
    parameter_sets: frozenset[str],
) -> Policy:
    """What every party of a federation with this plan pins.

    Args:
        roster: all parties.
        server: its name.
        committee, terms, purposes, parameter_sets: as of :class:`~secure_fu.protocol.Policy`.

    Raises:
        ArgumentError: they do not fit each other.
    """
    recipe = plan.recipe
    return Policy(
        server=server,
        committee=committee,
        terms=terms,
        roster_digest=roster.digest,
        unit=recipe.unit,
        budget=plan.budget,
        clip_norm=recipe.clip_norm,
        saturation=recipe.saturation,
        noise_multiplier=plan.least_noise_multiplier,
        sampling_rate=plan.largest_sampling_rate,
        minimum_cohort=plan.minimum_cohort,
        colluders=plan.colluders,
        purposes=purposes,
        parameter_sets=parameter_sets,
        grids=frozenset({plan.grid.value}),
    )
