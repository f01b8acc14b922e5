"""A released sum's noise is what the ledger was charged for, with the dropouts and colluders that are assumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines import header_of
from scipy import stats

from secure_fu.errors import ArgumentError
from secure_fu.privacy import Subject
from secure_fu.protocol import Policy
from secure_fu.protocol.header import grid_of, noise_share_of

LENGTH = 20_000
# A right round fails once in ten million.
SIGNIFICANCE = 1e-7


def variance_p(steps, variance):
    """Two-sided p-value that independent zero-mean normal values have this variance."""
    statistic = float((steps.astype(float) ** 2).sum()) / variance
    return 2.0 * min(stats.chi2.cdf(statistic, len(steps)), stats.chi2.sf(statistic, len(steps)))


def zero_round(machines, silent=()):
    """A round of the minimum cohort in which everybody contributes zero and the `silent` omit their noise.

    Returns the released sum in steps, the event that was charged, and the header.
    """
    invitation = machines.invited(0)
    header = header_of(invitation)
    for name in machines.names[: machines.policy.minimum_cohort]:
        if name in silent:
            upload = machines.forged_upload(invitation, name, np.zeros(header.length, dtype=np.int64))
        else:
            upload = machines.clients[name].respond(invitation)
        machines.server.receive(upload)
    released = machines.finish()
    (event,) = machines.ledger.events("original")
    return released.values / header.grid_step, event.charges[Subject.FORGOTTEN], header


@pytest.mark.parametrize(("clients", "minimum", "colluders"), [(4, 4, 1), (5, 4, 2), (6, 3, 0)])
def test_at_the_minimum_cohort_with_silent_colluders_the_noise_is_the_accounted_one(build, clients, minimum, colluders):
    machines = build(clients=clients, minimum=minimum, colluders=colluders, length=LENGTH)
    steps, charged, header = zero_round(machines, silent=machines.names[:colluders])
    assert variance_p(steps, charged.grid_ratio**2) > SIGNIFICANCE
    # The test has the power to see noise that is 5 % too small, too large, or lacks one more client.
    assert variance_p(steps * 0.95, charged.grid_ratio**2) < SIGNIFICANCE
    assert variance_p(steps * 1.05, charged.grid_ratio**2) < SIGNIFICANCE
    lacking_one = 1.0 - 1.0 / (minimum - colluders)
    assert variance_p(steps * lacking_one**0.5, charged.grid_ratio**2) < SIGNIFICANCE
    sensitivity = grid_of(header).sensitivity
    assert charged.grid_ratio == pytest.approx(charged.noise_multiplier * sensitivity / header.grid_step, rel=1e-12)
    assert (charged.noise_multiplier, charged.dimension) == (machines.noise_multiplier, LENGTH)


def test_clients_that_add_five_percent_too_little_noise_are_seen(build, monkeypatch):
    drawn = []

    def weakened(header):
        share = noise_share_of(header)
        drawn.append(replace(share, noise_multiplier=0.95 * share.noise_multiplier))
        return drawn[-1]

    machines = build(clients=4, minimum=4, colluders=1, length=LENGTH)
    monkeypatch.setattr("secure_fu.protocol.client.noise_share_of", weakened)
    steps, charged, _ = zero_round(machines, silent=machines.names[:1])
    assert len(drawn) == 3
    assert variance_p(steps, charged.grid_ratio**2) < SIGNIFICANCE


def test_one_more_silent_client_than_assumed_is_seen(build):
    machines = build(clients=4, minimum=4, colluders=1, length=LENGTH)
    steps, charged, _ = zero_round(machines, silent=machines.names[:2])
    assert variance_p(steps, charged.grid_ratio**2) < SIGNIFICANCE


def test_noise_is_independent_between_clients_and_between_coordinates(build):
    machines = build(clients=3, minimum=3, colluders=1, length=LENGTH)
    invitation = machines.collected(0)
    header = header_of(invitation)
    first, second, third = (machines.noise(name, header).astype(float) for name in machines.names)
    for one, other in ((first, second), (second, third), (first[:-1], first[1:])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 6.0 / LENGTH**0.5


@pytest.mark.parametrize("colluders", [2, 3, -1])
def test_a_policy_that_assures_fewer_than_two_clients_noise_is_refused(build, colluders):
    policy = build(minimum=3, colluders=1).policy
    with pytest.raises(ArgumentError):
        Policy(**{field: getattr(policy, field) for field in policy.__dataclass_fields__} | {"colluders": colluders})
