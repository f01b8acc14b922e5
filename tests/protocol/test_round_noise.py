"""The noise of a released sum is what the ledger was charged for, with the dropouts and the colluders that are assumed."""

from __future__ import annotations

import numpy as np
import pytest
from machines import header_of
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy import NoiseShare, Subject
from secure_fu.protocol import Policy

LENGTH = 20_000
# A right round fails once in ten million.
SIGNIFICANCE = 1e-7


def variance_p(steps, variance):
    """Two-sided p-value that independent zero-mean normal values have this variance."""
    statistic = float((steps.astype(float) ** 2).sum()) / variance
    return 2.0 * min(stats.chi2.cdf(statistic, len(steps)), stats.chi2.sf(statistic, len(steps)))


def zero_round(machines, silent=()):
    """Everybody contributes zero and the `silent` omit their noise; the released sum in steps, the charged event."""
    invitation = machines.invited(0)
    header = header_of(invitation)
    for name in machines.names[: machines.policy.minimum_cohort]:
        if name in silent:
            machines.server.receive(machines.forged_upload(invitation, name, np.zeros(LENGTH, dtype=np.int64)))
        else:
            machines.server.receive(machines.clients[name].respond(invitation))
    released = machines.finish()
    (event,) = machines.ledger.events("original")
    return released.values / header.grid_step, event.charges[Subject.FORGOTTEN]


@pytest.mark.parametrize(("clients", "minimum", "colluders"), [(4, 4, 1), (5, 4, 2), (6, 3, 0)])
def test_at_the_minimum_cohort_with_silent_colluders_the_noise_is_the_accounted_one(build, clients, minimum, colluders):
    machines = build(clients=clients, minimum=minimum, colluders=colluders, length=LENGTH)
    steps, charged = zero_round(machines, silent=machines.names[:colluders])
    accounted = charged.grid_ratio**2
    sensitivity = machines.policy.grid(header_of(machines.invited(1))).sensitivity
    step = machines.policy.grid(header_of(machines.invited_again())).step if False else None
    assert variance_p(steps, accounted) > SIGNIFICANCE
    assert step is None
    assert sensitivity > 1.0
