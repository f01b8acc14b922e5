"""What every party of a federation pins, from its plan and its scheme."""

from __future__ import annotations

from typing import Final

from secure_fu.crypto import CommitteeTerms, Roster, scheme
from secure_fu.planning import Plan
from secure_fu.protocol import Policy, kahe_parameter_sets
from secure_fu.scheme_names import KAHE

__all__ = ["KEY_HOLDER_ALONE", "parameter_sets_of", "policy_of"]

KEY_HOLDER_ALONE: Final = CommitteeTerms(members=1, threshold=1, quorum=1, corrupt=0)
"""The terms where a key-holder opens: with every scheme but `kahe`."""


def parameter_sets_of(scheme_name: str) -> frozenset[str]:
    """All parameter sets of a scheme.

    Raises:
        ArgumentError: there is no scheme of that name.
    """
    return kahe_parameter_sets() if scheme_name == KAHE else frozenset({scheme(scheme_name).parameter_set})


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
