"""An honest round with a committee, on either grid: what is released, and what travels."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from committee_machines import TEN, announcement_in, make_committee_machines

from secure_fu.crypto.wire import decode
from secure_fu.privacy import Budget, Unit, clip_l2
from secure_fu.protocol import GridKind, Header
from secure_fu.protocol.committee.server import CommitteeServer
from secure_fu.protocol.header import charges_of, grid_of
from secure_fu.protocol.messages import Upload

CLIENTS = Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.5, unit=Unit.CLIENT)


@pytest.fixture
def federate(tmp_path):
    built = []

    def make(**arguments):
        built.append(make_committee_machines(tmp_path, **arguments))
        return built[-1]

    yield make
    for machines in built:
        machines.close()


def test_the_release_is_the_plain_sum_plus_exactly_the_drawn_noise(federate):
    machines = federate(terms=TEN, contributions=lambda number: np.full(6, 0.1 * (number + 1)))
    for number, participants in enumerate((machines.names, machines.names[:4])):
        invitation = machines.collected(number, participants)
        released = machines.finish()
        announcement = announcement_in(invitation)
        header = decode(Header, announcement.header)
        assert released.participants == participants
        np.testing.assert_array_equal(
            released.values, machines.expected(participants, header, announcement.header_digest)
        )


def test_uploads_have_one_size_whatever_they_hold(federate):
    machines = federate(contributions=lambda number: np.full(6, 2.0 * (number % 2)))
    uploads = machines.uploads(machines.invited(0))
    assert len({len(upload) for upload in uploads.values()}) == 1
    bodies = {decode(Upload, upload).body for upload in uploads.values()}
    assert len(bodies) == len(uploads), "equal vectors have different ciphertexts"


def test_the_driver_gives_the_same_as_the_machines_by_hand(federate, caplog):
    machines = federate(contributions=lambda number: np.full(6, 0.5))
    with caplog.at_level(logging.WARNING):
        released = machines.sums().secure_sum(machines.request())
    assert released.participants == machines.names
    assert not caplog.records
    # Five clients of 0.5 in each coordinate; the noise of a share is below 0.6 per coordinate but for 2**-64.
    assert np.abs(released.values - 2.5).max() < 12.0


class OnRotatedGrid:
    """A federation whose sums are made on the rotated grid."""

    def __init__(self, federate, **arguments):
        self.machines = machines = federate(
            clients=8,
            minimum=8,
            length=300,
            noise_multiplier=4.0,
            budget=CLIENTS,
            unit=Unit.CLIENT,
            grids=frozenset({"rotated"}),
            **arguments,
        )
        machines.unit = Unit.CLIENT
        machines.server = CommitteeServer(
            machines.identities["server"], replace(machines.run, grid=GridKind.ROTATED, sum_bits=16)
        )

    def run(self):
        machines = self.machines
        invitation = machines.invited(0, saturation=1.0, retained_rate=1.0, forgotten_rate=1.0)
        for upload in machines.uploads(invitation).values():
            machines.server.receive(upload)
        return announcement_in(invitation), machines.finish()


def test_sums_on_the_rotated_grid_have_sixteen_bits_and_are_exact(federate):
    direction = np.zeros(300)
    direction[:3] = 1.0 / np.sqrt(3.0)
    rounds = OnRotatedGrid(federate, contributions=lambda _number: 0.99 * direction)
    announcement, released = rounds.run()
    header = decode(Header, announcement.header)
    assert (header.grid, header.digit_bits) == ("rotated", 16)
    np.testing.assert_array_equal(
        released.values, rounds.machines.expected(released.participants, header, announcement.header_digest)
    )
    grid = grid_of(header)
    for charge in charges_of(header).values():
        assert charge is not None
        assert charge.grid_ratio == pytest.approx(4.0 * grid.sensitivity / grid.step)
    # Noise of multiplier 4 for eight clients, seven of them assured, is 4.3 in each coordinate.
    assert (released.values - 8 * 0.99 * direction).std() == pytest.approx(4.0 * np.sqrt(8 / 7), rel=0.2)


def test_a_contribution_that_does_not_keep_to_the_clip_norm_is_clipped(federate):
    rounds = OnRotatedGrid(federate, contributions=lambda number: np.full(300, 1.0 if number == 0 else 0.0))
    announcement, released = rounds.run()
    rounds.machines.tasks["client-0"].contribution_given = clip_l2(np.full(300, 1.0), 1.0)
    header = decode(Header, announcement.header)
    np.testing.assert_array_equal(
        released.values, rounds.machines.expected(released.participants, header, announcement.header_digest)
    )
