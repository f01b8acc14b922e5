"""A malicious server against `kahe`: sealed shares under another name, of another key, at another place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from committee_attacker import (
    CLIENTS_BELIEVED,
    Attacker,
    attempt,
    bind_seals_to,
    collected,
    contributions,
    stands_and_falls,
)
from committee_attacker import made_upload as made

from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import PolicyRefusal, ShareMisfit, SignatureError
from secure_fu.protocol import Member
from secure_fu.protocol.committee.messages import Ballot
from secure_fu.protocol.messages import Domain, Upload, digest, shares_digest


def resigned(attacker: Attacker, owner: str, thief: str) -> bytes:
    """Somebody's ciphertext and boxes as a colluder's own upload, signed with the colluder's true key."""
    copy = replace(decode(Upload, attacker.uploads[owner]), client=thief)
    return encode(replace(copy, signature=attacker.machines.identities[thief].sign(Domain.UPLOAD, copy.statement)))


RESIGNED = {
    "doubled by one colluder": ({"client-0": 2, "client-1": 1}, ("client-4",)),
    "isolated by two": ({"client-0": 3}, ("client-3", "client-4")),
}


@stands_and_falls
@pytest.mark.parametrize(("weights", "thieves"), RESIGNED.values(), ids=RESIGNED)
def test_nobody_else_can_sign_a_clients_boxes(federate, monkeypatch, defended, weights, thieves):
    """Enrolled colluders sign client-0's ciphertext and boxes as their own, so that it is in the sum several times."""
    if not defended:
        bind_seals_to(monkeypatch, client="anybody")
    attacker = collected(federate(contributions=contributions))
    listed = attacker.of(*weights) | {name: resigned(attacker, "client-0", name) for name in thieves}
    read = attempt(
        lambda: attacker.opened(listed, weights),
        refused=ShareMisfit if defended else None,
        match=f"share of client '{thieves[0]}'",
    )
    assert attacker.nobody_is_bound() is defended
    truth = np.sum([times * attacker.truth[name] for name, times in weights.items()], axis=0)
    assert defended or np.array_equal(read, truth)


def ballots_with_boxes(attacker: Attacker, roll, replaced: dict[str, bytes], *, signed_digests: bool):
    """Ballots for a true roll, but with other uploads' boxes for some clients; with the digests that these signed?"""
    ballots = attacker.ballots(roll, attacker.uploads)
    others = attacker.ballots(roll, attacker.uploads | replaced)

    def ballot(member: str) -> bytes:
        if not signed_digests:
            return others(member)
        true, other = decode(Ballot, ballots(member)), decode(Ballot, others(member))
        deliveries = tuple(
            replace(delivery, box=swapped.box)
            for delivery, swapped in zip(true.deliveries, other.deliveries, strict=True)
        )
        return encode(replace(true, deliveries=deliveries))

    return ballot


def checks_only_digests(self, delivery, client, signed, terms):
    if shares_digest(delivery.share_digests) != signed:
        raise PolicyRefusal("digests")


def checks_only_the_box(self, delivery, client, signed, terms):
    if digest(delivery.box) != delivery.share_digests[self._position]:
        raise PolicyRefusal("box")


REPLACED = {
    "digests as signed, other boxes": (True, checks_only_digests, "not the one to member"),
    "digests of the other boxes": (False, checks_only_the_box, "not those that it signed"),
}


@stands_and_falls
@pytest.mark.parametrize(("signed_digests", "check", "match"), REPLACED.values(), ids=REPLACED)
def test_all_shares_but_one_clients_are_not_replaced(federate, monkeypatch, defended, signed_digests, check, match):
    """The server seals shares of zero keys in place of all clients' but one, so that the opened key is that client's.

    Anybody can seal to a member, and the roll is the true one: only the clients' signatures say which boxes count.
    """
    machines = federate(contributions=contributions)
    attacker = collected(machines)
    replaced = {
        name: made(machines, attacker.announcement, name, machines.identities["server"]) for name in machines.names[1:]
    }
    roll = attacker.roll(attacker.uploads)
    if not defended:
        monkeypatch.setattr(Member, "_check_delivery", check)
    read = attempt(
        lambda: attacker.opened_roll(
            roll,
            {"client-0": 1},
            ballots=ballots_with_boxes(attacker, roll, replaced, signed_digests=signed_digests),
        ),
        refused=PolicyRefusal if defended else None,
        match=match,
    )
    assert attacker.nobody_is_bound() is defended
    assert defended or np.array_equal(read, attacker.truth["client-0"])


@stands_and_falls
def test_the_roll_does_not_list_boxes_that_the_client_did_not_sign(federate, monkeypatch, defended):
    """As above, and the server puts the digest of its own boxes into the roll in place of the signed one."""
    machines = federate(contributions=contributions)
    attacker = collected(machines)
    replaced = {}
    for name in machines.names[1:]:
        true = decode(Upload, attacker.uploads[name])
        own = decode(Upload, made(machines, attacker.announcement, name, machines.identities["server"]))
        replaced[name] = encode(replace(true, shares=own.shares))
    if not defended:
        monkeypatch.setattr(*CLIENTS_BELIEVED)
    read = attempt(
        lambda: attacker.opened(attacker.uploads | replaced, {"client-0": 1}),
        refused=SignatureError if defended else None,
        match="signature of 'client-1'",
    )
    assert attacker.nobody_is_bound() is defended
    assert defended or np.array_equal(read, attacker.truth["client-0"])


def with_boxes_of(attacker: Attacker, owner: str) -> dict[str, bytes]:
    """All uploads, every one with the boxes of one client."""
    boxes = decode(Upload, attacker.uploads[owner]).shares
    return {name: encode(replace(decode(Upload, data), shares=boxes)) for name, data in attacker.uploads.items()}


SWAPS = {
    "stopped by the seal and the digests": ("nothing", PolicyRefusal, "not those that it signed"),
    "stopped by the seal": ("digests", ShareMisfit, "does not fit"),
    "stopped by the digests": ("seal", PolicyRefusal, "not those that it signed"),
    "not stopped": ("both", None, None),
}


@pytest.mark.parametrize(("without", "refused", "match"), SWAPS.values(), ids=SWAPS)
def test_shares_are_not_swapped_between_clients(federate, monkeypatch, without, refused, match):
    """The server hands a member one client's box for each client in the roll, so that the members open that one's key.

    Two defences stop it, each alone: what the client signed, and what the box was sealed for.
    """
    if without in ("seal", "both"):
        bind_seals_to(monkeypatch, client="anybody")
    if without in ("digests", "both"):
        monkeypatch.setattr(Member, "_check_delivery", lambda *_: None)
    attacker = collected(federate(contributions=contributions))
    roll = attacker.roll(attacker.uploads)
    read = attempt(
        lambda: attacker.opened_roll(
            roll, {"client-0": 5}, ballots=attacker.ballots(roll, with_boxes_of(attacker, "client-0"))
        ),
        refused=refused,
        match=match,
    )
    assert refused or np.array_equal(read, 5 * attacker.truth["client-0"])


@pytest.mark.parametrize(("without", "refused", "match"), SWAPS.values(), ids=SWAPS)
def test_shares_are_not_swapped_between_rounds(federate, monkeypatch, without, refused, match):
    """The server hands members the boxes of an earlier round, which nobody opened, for a true roll of this one."""
    if without in ("seal", "both"):
        bind_seals_to(monkeypatch, header_digest=bytes(32))
    if without in ("digests", "both"):
        monkeypatch.setattr(Member, "_check_delivery", lambda *_: None)
    machines = federate(contributions=contributions)
    before = collected(machines)
    machines.server.abort("the server goes its own ways")
    now = collected(machines, 1)
    roll = now.roll(now.uploads)

    def opened():
        told = now.answers(roll, now.votes(roll, now.ballots(roll, before.uploads)))
        before.refusals += now.refusals
        return before.read(told, dict.fromkeys(machines.names, 1))

    read = attempt(opened, refused=refused, match=match)
    assert refused or np.array_equal(read, before.sum_of(*machines.names))


@pytest.mark.parametrize(("without", "refused", "match"), SWAPS.values(), ids=SWAPS)
def test_shares_are_not_swapped_between_members(federate, monkeypatch, without, refused, match):
    """The server hands each honest member the corrupt member's boxes, so that it says what that one could have said.

    The box is sealed to another key, which stops this in any case; here the corrupt member has handed its key out.
    """
    machines = federate(contributions=contributions)
    corrupt = machines.policy.committee[-1]
    if without in ("seal", "both"):
        bind_seals_to(monkeypatch, member="anybody")
    if without in ("digests", "both"):
        monkeypatch.setattr(Member, "_check_delivery", lambda *_: None)
    elif without == "seal":
        match = "not the one to member"
    attacker = collected(machines)
    machines.members["member-00"]._identity = handing_out(machines, "member-00", corrupt)
    roll = attacker.roll(attacker.uploads)
    true = decode(Ballot, attacker.ballots(roll, attacker.uploads)("member-00"))
    other = decode(Ballot, attacker.ballots(roll, attacker.uploads)(corrupt))
    if without == "nothing":
        match = "not the one to member"
    ballot = encode(replace(true, deliveries=other.deliveries))
    voted = attempt(lambda: machines.members["member-00"].vote(ballot), refused=refused, match=match)
    assert refused or voted == machines.members["member-00"].vote(ballot)


class handing_out:  # noqa: N801 - reads as what it does
    """A member's identity that opens boxes with another member's key."""

    def __init__(self, machines, name, other):
        self._own, self._other = machines.identities[name], machines.identities[other]
        self.name, self.role = self._own.name, self._own.role
        self.sign, self.unseal = self._own.sign, self._other.unseal
