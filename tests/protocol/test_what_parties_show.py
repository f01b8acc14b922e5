"""No party prints, pickles or keeps what is secret; errors and logs tell nothing of a contribution."""

from __future__ import annotations

import copy
import logging
import pickle

import numpy as np
import pytest
from machines import header_of
from memory_walk import find, needles, reachable

from secure_fu.errors import ArgumentError, ReuseError
from secure_fu.protocol.header import grid_of


def sentinels(client):
    return np.random.default_rng(70 + client).normal(0.0, 0.4, 12)


def parties(machines, accepted, pending):
    return {
        "client": machines.clients["client-0"],
        "server": machines.server,
        "key-holder": machines.key_holder,
        "accepted round": accepted,
        "upload in the making": pending,
        "driver": machines.sums(),
    }


PARTIES = (
    "client",
    "server",
    "key-holder",
    "accepted round",
    "upload in the making",
    "driver",
)


@pytest.mark.parametrize("who", PARTIES)
def test_parties_refuse_to_be_pickled_or_cloned_and_print_no_numbers(build, who):
    machines = build(length=12, contributions=sentinels)
    invitation = machines.invited(0)
    accepted = machines.clients["client-0"].accept(invitation)
    pending = accepted.begin()
    everybody = parties(machines, accepted, pending)
    assert set(everybody) == set(PARTIES)
    party = everybody[who]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(party, protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(party)
    shown = repr(party) + repr(vars(party))
    wanted = needles("noise", machines.noise("client-0", header_of(invitation))) | needles("contribution", sentinels(0))
    assert find(wanted, [shown]) == []
    assert "array" not in shown


def test_a_shallow_copy_of_a_client_answers_no_round_twice(build):
    machines = build()
    client = machines.clients["client-0"]
    twin = copy.copy(client)
    invitation = machines.invited(0)
    client.respond(invitation)
    with pytest.raises(Exception, match="round_number is 0"):
        twin.respond(invitation)


def test_an_accepted_round_is_answered_once(build):
    machines = build()
    accepted = machines.clients["client-0"].accept(machines.invited(0))
    accepted.begin()
    drawn = len(machines.tape.streams)
    with pytest.raises(ReuseError):
        accepted.begin()
    assert len(machines.tape.streams) == drawn


def test_a_client_keeps_neither_its_noise_nor_what_it_encrypted(build):
    machines = build(length=12, contributions=sentinels)
    client = machines.clients["client-1"]
    for number in range(2):
        invitation = machines.invited(number)
        header = header_of(invitation)
        accepted = client.accept(invitation)
        pending = accepted.begin()
        noise = machines.noise("client-1", header)
        plaintext = grid_of(header).quantise(sentinels(1)) + noise
        wanted = needles("noise", noise) | needles("plaintext", plaintext)
        pending.finish()
        machines.server.abort("test")
        assert find(wanted, reachable(client, accepted, pending, machines.client_record)) == []


def test_the_key_holder_keeps_no_key_after_opening_and_no_sum_but_the_released_one(build):
    machines = build(length=12, contributions=sentinels)
    invitation = machines.collected(0)
    key = next(iter(machines.key_holder._pending.values())).key
    request = machines.server.close()
    opening = machines.key_holder.open(request)
    assert not any(item is key for item in reachable(machines.key_holder))
    header = header_of(invitation)
    wanted = {}
    for number, name in enumerate(machines.names):
        wanted |= needles(name, sentinels(number))
        wanted |= needles(name, machines.noise(name, header))
    assert find(wanted, reachable(machines.key_holder)) == []
    assert find(wanted, [opening, request, invitation]) == []


@pytest.mark.parametrize(
    "error",
    [ArgumentError("features", sentinels(0).tolist(), "others"), KeyError("no"), MemoryError(), OverflowError("1e308")],
)
def test_neither_a_refusal_nor_the_log_holds_what_a_task_said(build, error, caplog):
    machines = build(length=12, contributions=sentinels)
    machines.tasks["client-0"].contribution_given = error
    wanted = needles("contribution", sentinels(0))
    assert not isinstance(error, ArgumentError) or find(wanted, [str(error)])
    with caplog.at_level(logging.DEBUG):
        invitation = machines.invited(0)
        uploads = [machines.clients[name].respond(invitation) for name in machines.names]
    assert len({len(upload) for upload in uploads}) == 1
    assert find(wanted, [caplog.text]) == []
    assert "noise alone" in caplog.text
