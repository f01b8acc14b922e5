"""What a round releases is the sum of what the clients gave, plus exactly the noise that they drew."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import Counts, header_of, make_machines

SATURATION = 2.0
# One coordinate, part of a ciphertext, exactly one, one more, and three ciphertexts.
LENGTHS = (1, 3, 40, 4096, 4097, 9000)


def rounded(vector, step):
    """The oracle: exact rationals, half to even; coordinates beyond saturation are clamped first."""
    clamped = [min(max(Fraction(x), -Fraction(SATURATION)), Fraction(SATURATION)) for x in vector.tolist()]
    return np.array([round(x / Fraction(step)) for x in clamped], dtype=np.int64)


def vectors(seed, clients, length, step):
    """For each client something else: zero, far out, on the grid, half-way between its points, anything."""
    draw = np.random.default_rng(seed)
    kinds = (
        lambda: np.zeros(length),
        lambda: draw.choice([-1e9, -SATURATION, SATURATION, 1e300], length),
        lambda: draw.integers(-200, 200, length) * step,
        lambda: (draw.integers(-200, 200, length) + 0.5) * step,
        lambda: draw.normal(0.0, 1.0, length),
    )
    return [kinds[draw.integers(len(kinds))]() for _ in range(clients)]


@pytest.mark.parametrize("scheme_name", ["bfv", "plain"])
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_the_release_is_the_plaintext_sum_plus_exactly_the_drawn_noise(scheme_name, data):
    clients = data.draw(st.integers(3, 7), "clients")
    minimum = data.draw(st.integers(3, clients), "minimum")
    length = data.draw(st.sampled_from(LENGTHS), "length")
    names = [f"client-{number}" for number in range(clients)]
    uploading = data.draw(st.sets(st.sampled_from(names), min_size=minimum), "uploading")
    order = data.draw(st.permutations(sorted(uploading)), "order of arrival")
    with tempfile.TemporaryDirectory() as directory:
        machines = make_machines(
            Path(directory), clients=clients, minimum=minimum, length=length, scheme_name=scheme_name
        )
        invitation = machines.invited(0)
        header = header_of(invitation)
        given_vectors = vectors(data.draw(st.integers(0, 2**32)), clients, length, header.grid_step)
        for task, vector in zip(machines.tasks.values(), given_vectors, strict=True):
            task.contribution_given = vector
        for name in order:
            machines.server.receive(machines.clients[name].respond(invitation))
        released = machines.finish()
        total = sum(rounded(machines.tasks[name].contribution_given, header.grid_step) for name in uploading)
        noise = sum(machines.noise(name, header) for name in uploading)
        assert np.array_equal(released.values, (total + noise) * header.grid_step)
        assert noise.any() or length < 10, "of a single coordinate it is zero once in some hundred rounds"
        assert released.participants == tuple(sorted(uploading))
        machines.close()


def test_rounds_follow_each_other_with_fresh_keys_and_noise(build):
    machines = build(length=10)
    keys, noises = [], []
    for number in (0, 1, 5):
        invitation = machines.collected(number)
        released = machines.finish()
        noise = sum(machines.noise(name, header_of(invitation)) for name in machines.names)
        assert np.array_equal(released.values, noise * header_of(invitation).grid_step)
        assert released.round_number == number
        assert released.transcript == machines.transcript.head
        keys.append(invitation)
        noises.append(released.values)
    assert not np.array_equal(noises[0], noises[1])
    assert len(set(keys)) == 3


def test_the_sum_of_a_larger_cohort_than_the_minimum_has_everybodys_noise(build):
    machines = build(clients=6, minimum=3, length=5)
    machines.collected(0)
    released = machines.finish()
    assert len(released.participants) == 6


def test_the_driver_gives_the_same_as_the_machines_by_hand(build):
    machines = build(contributions=lambda number: np.full(6, number / 4.0))
    clients = {name: Counts(client) for name, client in machines.clients.items()}
    sums = machines.sums(clients=clients, vanishes=lambda number, name: (number, name) == (1, "client-2"))
    for number, participants in ((0, (0, 1, 2, 3)), (1, (0, 1, 3))):
        released = sums.secure_sum(machines.request())
        names = tuple(f"client-{client}" for client in participants)
        header = header_of(clients["client-0"].invitations[-1])
        noise = sum(machines.noise(name, header) for name in names)
        total = sum(rounded(machines.tasks[name].contribution_given, header.grid_step) for name in names)
        assert np.array_equal(released.values, (total + noise) * header.grid_step)
        assert released.participants == names
        assert (released.round_number, sums.next_round) == (number, number + 1)
        assert sums.traffic[-1].uploads == len(names)
    assert len(clients["client-2"].invitations) == 1
