"""The privacy budget, and the filter that keeps a run within it.

Guarantee: if every round is admitted by :meth:`Budget.limit` and :attr:`Budget.divergence_limit` before it starts, all
releases together are (epsilon, delta)-private for each group of ``group_size`` units of each client, even if the
rounds, their noise, their cohorts and when to stop were chosen after seeing earlier releases.

Why: Feldman and Zrnic 2021 (arXiv 2008.11193) show that a run which stops before the Renyi divergences of its rounds,
at one fixed order, add up to more than B is itself B-private at that order, however adaptively it was made; and they
keep one such sum per individual, here per client and kind of unit, so who joins late pays less. The order has to be
fixed before the first
round: trying several and keeping the best is sound only for plans that do not react to releases. So the budget
carries its order; :func:`secure_fu.privacy.accounting.order_for_events` finds the right one for a plan and
:func:`secure_fu.privacy.accounting.order_for_budget` one for an unknown plan. The conversion to (epsilon, delta) is
that of Canonne, Kamath, Steinke 2020, Proposition 12. The same argument holds for the divergences of the
discretisation, which add by the chain rule and have a part of delta set aside beforehand.

Assumes: each event describes its round truly (assured noise, sensitivity, secret sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_fu.errors import ArgumentError
from secure_fu.privacy._checks import fraction, positive, positive_integer, probability
from secure_fu.privacy.accounting import renyi_limit
from secure_fu.privacy.discretisation import divergence_limit
from secure_fu.privacy.epsilon import Phase
from secure_fu.privacy.units import Unit

__all__ = ["Budget"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each unit may spend over all releases, and what training must leave for deletions.

    Args:
        epsilon: above 0.
        delta: between 0 and 1.
        order: the Renyi order of the filter, one of :data:`secure_fu.privacy.accounting.ORDERS`, fixed for good.
        deletion_reserve: fraction, from 0 up to 1, of the Renyi budget that training leaves untouched. Renyi
            divergences add, so 0.5 keeps as many rounds for unlearning as training may have. Unlearning may spend all
            that is left.
        unit: whose presence is hidden. For the client unit no round may claim amplification: the cohort is public.
        group_size: number of units that the budget hides together.

    Raises:
        ArgumentError: a value is outside its domain, or the order admits nothing at this epsilon and delta.
    """

    epsilon: float
    delta: float
    order: float
    deletion_reserve: float
    unit: Unit
    group_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", positive("epsilon", self.epsilon))
        object.__setattr__(self, "delta", probability("delta", self.delta))
        object.__setattr__(self, "order", positive("order", self.order))
        object.__setattr__(self, "deletion_reserve", fraction("deletion_reserve", self.deletion_reserve))
        object.__setattr__(self, "group_size", positive_integer("group_size", self.group_size))
        if not isinstance(self.unit, Unit):
            raise ArgumentError("unit", self.unit, "a secure_fu.privacy.Unit")
        if self.limit(Phase.UNLEARNING) <= 0.0:
            raise ArgumentError(
                "order", self.order, f"an order that admits something at epsilon {self.epsilon}, delta {self.delta}"
            )

    def limit(self, phase: Phase) -> float:
        """The largest Renyi divergence, at ``order``, that all rounds together may reach by a round of this phase."""
        whole = renyi_limit(epsilon=self.epsilon, delta=self.delta, order=self.order)
        return whole * (1.0 - self.deletion_reserve) if phase is Phase.TRAINING else whole

    def epsilon_at(self, divergence: float) -> float:
        """The epsilon, at the budget's order and delta, of a Renyi divergence: ``limit`` solved for epsilon."""
        return max(0.0, self.epsilon + divergence - self.limit(Phase.UNLEARNING))

    @property
    def divergence_limit(self) -> float:
        """The largest sum of discretisation divergences over all rounds."""
        return divergence_limit(epsilon=self.epsilon, delta=self.delta)
