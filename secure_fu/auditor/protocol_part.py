"""The protocol part of an audit: one encrypted canary run of a configuration, its bounds and what each party sees."""

from __future__ import annotations

import math
from typing import Any, Final

from numpy.typing import NDArray

from secure_fu.audit.protocol import ProtocolAudit
from secure_fu.auditor.canary.protocol_audit import audit_protocol
from secure_fu.auditor.canary.runs import canary_run
from secure_fu.auditor.canary.views import PartyView, canary_views
from secure_fu.config import SimulationConfig
from secure_fu.learning import FlatModel
from secure_fu.planning import Plan
from secure_fu.privacy import Unit
from secure_fu.scenario import Scenario
from secure_fu.simulation import committee_of

__all__ = ["audit_canaries", "protocol_not_seen"]

_CANARIES: Final = 1000
_CANARY_CLIENTS: Final = 100  # each encrypts and uploads as a client does
_QUICK_ROUNDS: Final = 10
_ZERO_VALUES: Final = 10_000  # coordinates of noise that the chi-square test should have
_QUICK_VALUES: Final = 2_000


def audit_canaries(
    config: SimulationConfig, scenario: Scenario, plan: Plan, *, canaries: int | None, quick: bool
) -> tuple[ProtocolAudit, list[PartyView], dict[str, NDArray[Any]]]:
    """Run a federation's training with canaries in it, and zero rounds, and audit what was released.

    Args:
        canaries: None for 1000, or 100 clients under the client unit, or fewer where the model is smaller.
        quick: ten rounds of training at most.

    Returns:
        The audit, what each party sees, and the arrays of `scores.npz`.

    Raises:
        ArgumentError: more canaries than parameters, or fewer than the statistics take; says how many.
    """
    dimension = FlatModel(scenario.module).dimension
    most = _CANARY_CLIENTS if plan.recipe.unit is Unit.CLIENT else _CANARIES
    run = canary_run(
        scenario.module,
        scenario.clients,
        plan,
        canaries=min(most, max(20, dimension // 2)) if canaries is None else canaries,
        rounds=min(_QUICK_ROUNDS, plan.recipe.rounds) if quick else None,
        # They are charged in a branch of their own, which has the plan's budget.
        zero_rounds=min(plan.recipe.rounds, math.ceil((_QUICK_VALUES if quick else _ZERO_VALUES) / dimension)),
        scheme_name=config.protocol.scheme,
        committee=committee_of(config),
    )
    scores = {
        "protocol/inserted": run.inserted,
        "protocol/components": run.directions.scores(run.sums - run.known) / plan.recipe.clip_norm,
    }
    return audit_protocol(run), list(canary_views(run)), scores


def protocol_not_seen(audit: ProtocolAudit) -> list[str]:
    """What the canaries would have missed."""
    return [
        f"Protocol: {audit.registration.canaries} canaries in {audit.registration.rounds} rounds refute claims below "
        f"epsilon {audit.registration.refutes:.2f}, roughly; the claim is {audit.claim.epsilon:.2f}. A claim that is "
        "wrong by less is not found."
    ]
