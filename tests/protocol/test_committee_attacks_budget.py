"""A malicious server against clients' own ledgers: run ids, phases and rates of its choosing."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from committee_attacker import contributions, stands_and_falls, without_pin
from machines import AMPLE

from secure_fu.errors import PolicyRefusal
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol import ClientRecord
from secure_fu.protocol.header import charges_of, own_charge_of

MOST = 120
"""Rounds that are tried: far more than the budget has."""


def rounds_answered(machines, headers, *, record=None) -> int:
    """How many of these rounds a client answers before it refuses one."""
    client = machines.client("client-0", record=record or ClientRecord())
    for count, changes in enumerate(headers):
        try:
            client.respond(machines.forged_invitation(**({"round_number": count} | changes)))
        except PolicyRefusal:
            return count
    return len(headers)


class GenerousRecord(ClientRecord):
    """Forgets what was spent."""

    def accept(self, client, header, header_digest, *, budget):
        self._spending = type(self._spending)()
        super().accept(client, header, header_digest, budget=budget)


@pytest.fixture
def machines(federate):
    """A federation with a round open, and clients whose budget is small."""
    machines = federate(contributions=contributions, noise_multiplier=1.2)
    machines.invited(0)
    return machines


@stands_and_falls
def test_new_runs_do_not_make_new_budgets(machines, defended):
    """The server calls every round the first of another run, so that a client forgets what it has spent."""
    record = None if defended else GenerousRecord()
    headers = [{"run_id": os.urandom(16), "round_number": 0} for _ in range(MOST)]
    answered = rounds_answered(machines, headers, record=record)
    assert answered == (rounds_answered(machines, [{}] * MOST) if defended else MOST)
    assert answered > 1
    assert (answered < MOST) is defended


def test_both_phases_draw_on_one_budget(machines):
    """The server calls training unlearning: that reaches the reserve, and no round beyond the whole budget."""
    whole = replace(AMPLE, deletion_reserve=0.0)
    budget = machines.client("client-0", policy=replace(machines.policy, budget=whole))
    machines.client_record = ClientRecord()
    most = 0
    for number in range(MOST):
        try:
            budget.respond(machines.forged_invitation(round_number=number))
            most += 1
        except PolicyRefusal:
            break
    phases = [{"phase": (Phase.TRAINING, Phase.UNLEARNING)[number % 2].value} for number in range(MOST)]
    training = rounds_answered(machines, [{}] * MOST)
    mixed = rounds_answered(machines, phases)
    unlearning = rounds_answered(machines, [{"phase": Phase.UNLEARNING.value}] * MOST)
    assert training <= mixed <= unlearning == most < MOST
    assert training < unlearning


@stands_and_falls
def test_one_unit_has_one_budget_however_rounds_call_it(machines, monkeypatch, defended):
    """The server charges half of the rounds to retained units only and half to forgotten ones: one record is in both.

    It is sampled as retained while nobody asks to forget it, and as forgotten afterwards.
    """
    honest = rounds_answered(machines, [{"retained_rate": 0.5, "forgotten_rate": 0.5}] * MOST)
    if not defended:  # one account for each kind of unit
        record = "secure_fu.protocol.client_record"
        monkeypatch.setattr(f"{record}.own_charge_of", charges_of)
        monkeypatch.setattr(f"{record}._any_unit", lambda charges: charges)
        monkeypatch.setattr(f"{record}._text", lambda _: "{}")
    split = [{"retained_rate": 0.5, "forgotten_rate": 0.0}, {"retained_rate": 0.0, "forgotten_rate": 0.5}]
    answered = rounds_answered(machines, [split[number % 2] for number in range(MOST)])
    assert answered == (honest if defended else 2 * honest)


@stands_and_falls
def test_no_round_is_free(machines, monkeypatch, defended):
    """The server names rates of zero: nothing would be charged, and whether nothing is sent were each task's matter."""
    if not defended:
        without_pin("retained_rate")(monkeypatch)
        cheapest = own_charge_of(replace(machines.server._state.header, retained_rate=1e-6, forgotten_rate=1e-6))
        monkeypatch.setattr("secure_fu.protocol.client_record.own_charge_of", lambda _: cheapest)
    headers = [{"retained_rate": 0.0, "forgotten_rate": 0.0}] * MOST
    assert rounds_answered(machines, headers) == (0 if defended else MOST)


@stands_and_falls
@pytest.mark.parametrize("rate", [0.01, 0.99])
def test_the_client_unit_is_never_amplified(federate, monkeypatch, defended, rate):
    """The server names a sampling rate in a round of the client unit, where all take part and are seen to."""
    machines = federate(contributions=contributions, noise_multiplier=4.0)
    machines.invited(0)
    budget = replace(machines.policy.budget, unit=Unit.CLIENT)
    machines.policy = replace(machines.policy, unit=Unit.CLIENT, budget=budget, sampling_rate=1.0)
    if not defended:
        without_pin("retained_rate", "forgotten_rate")(monkeypatch)
    header = {"unit": Unit.CLIENT.value}
    honest = rounds_answered(machines, [header | {"retained_rate": 1.0, "forgotten_rate": 1.0}] * MOST)
    assert 0 < honest < MOST
    answered = rounds_answered(machines, [header | {"retained_rate": rate, "forgotten_rate": rate}] * MOST)
    assert answered == 0 if defended else answered > honest
