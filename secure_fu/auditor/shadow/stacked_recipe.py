"""A federation's recipe as the training of stacked models: shadow models of membership attacks, many at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.auditor.shadow.sums import noise_deviation
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records
from secure_fu.learning.stacked import StackedTraining
from secure_fu.planning import Plan
from secure_fu.privacy import Unit

__all__ = ["joined_steps", "pooled_records", "stacked_training"]


def stacked_training(
    plan: Plan, model: FlatModel, *, clients: int, joins: Mapping[str, int] | None = None
) -> StackedTraining:
    """The training of one stacked model with the law of this plan's, for the record unit.

    Two things of the protocol are not in it. Saturation: a client's sum is not clamped; whether that matters is what
    :attr:`~secure_fu.auditor.shadow.federation.ShadowFederation.fullest` of one run tells, which is then below 1. And
    late clients' shares of noise: a stacked training has one noise, and gets the mean of the rounds' variances, which
    is between the variances of the first and the last round.

    Args:
        model: the architecture.
        clients: how many there are.
        joins: rounds done before a client joins, for late ones.

    Raises:
        ArgumentError: the unit is not the record, or fewer clients than join late.
    """
    recipe = plan.recipe
    if recipe.unit is not Unit.RECORD:
        raise ArgumentError("plan.recipe.unit", recipe.unit.value, "the record unit")
    late = sorted((joins or {}).values())
    if clients < max(1, len(late)):
        raise ArgumentError("clients", clients, f"at least {max(1, len(late))}")
    variances = []
    for done in range(recipe.rounds):
        present = clients - sum(joined > done for joined in late)
        variances.append(noise_deviation(plan, length=model.dimension, clients=present) ** 2)
    return StackedTraining(
        steps=recipe.rounds,
        sampling_rate=recipe.sampling_rate,
        learning_rate=recipe.learning_rate,
        divisor=recipe.sampling_rate * recipe.nominal_units,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        noise=math.sqrt(float(np.mean(variances))),
    )


def pooled_records(clients: Mapping[str, Records]) -> Records:
    """The records of all clients, one client after the other in the order of names; n of them. Groups are dropped.

    Raises:
        ArgumentError: there are no clients.
    """
    if not clients:
        raise ArgumentError("clients", "none", "at least one")
    own = [records for _, records in sorted(clients.items())]
    return Records(torch.cat([part.features for part in own]), torch.cat([part.labels for part in own]))


def joined_steps(clients: Mapping[str, Records], joins: Mapping[str, int]) -> NDArray[np.int64]:
    """How many steps are over before each record of :func:`pooled_records` takes part: shape (n,)."""
    counts = [(joins.get(name, 0), len(records)) for name, records in sorted(clients.items())]
    return np.repeat([joined for joined, _ in counts], [count for _, count in counts]).astype(np.int64)
