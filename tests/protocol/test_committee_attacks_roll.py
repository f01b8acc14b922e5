"""A malicious server against `kahe`: rolls that nobody should open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from committee_attacker import CLIENTS_BELIEVED, MEMBER, Attacker, attempt, collected, contributions, stands_and_falls
from committee_attacker import made_upload as made
from machines import SERVER

from secure_fu.crypto import Identity, Role
from secure_fu.errors import PolicyRefusal, ProtocolError, RosterError, SecureFUError, SignatureError
from secure_fu.protocol import Policy
from secure_fu.protocol.messages import Domain
from secure_fu.protocol.roll_check import check_roll


def rolls_checked_against(monkeypatch, **changes):
    """Members that check a roll as if the header said something else."""

    def check(roll, header, header_digest, *, roster, server):
        check_roll(roll, replace(header, **changes), header_digest, roster=roster, server=server)

    monkeypatch.setattr(f"{MEMBER}.check_roll", check)


@stands_and_falls
@pytest.mark.parametrize("names", [("client-0",), ("client-1", "client-3")], ids=["one client", "below the minimum"])
def test_a_set_below_the_minimum_cohort_is_not_opened(federate, monkeypatch, defended, names):
    """The server has a roll opened that lists a single client, or fewer than the minimum cohort."""
    attacker = collected(federate(contributions=contributions))
    if not defended:
        rolls_checked_against(monkeypatch, minimum_cohort=1)
    read = attempt(
        lambda: attacker.opened(attacker.of(*names), dict.fromkeys(names, 1)),
        refused=PolicyRefusal if defended else None,
        match="opens with at least 3",
    )
    assert attacker.nobody_is_bound() is defended
    assert defended or np.array_equal(read, attacker.sum_of(*names))


@stands_and_falls
def test_a_roll_of_repeats_does_not_reach_the_minimum(federate, monkeypatch, defended):
    """The server lists one client three times, so that the roll is long enough and opens three times its vector."""
    attacker = collected(federate(contributions=contributions))
    roll = attacker.roll(attacker.of("client-2"))
    roll = attacker.machines.signed_roll(replace(roll, entries=roll.entries * 3))
    if not defended:

        def check(roll, header, header_digest, *, roster, server):
            for entry in roll.entries:
                roster.verify(entry.client, Role.CLIENT, Domain.UPLOAD, entry.statement(header_digest), entry.signature)

        monkeypatch.setattr(f"{MEMBER}.check_roll", check)
    read = attempt(
        lambda: attacker.opened_roll(roll, {"client-2": 3}, ballots=attacker.ballots(roll, attacker.of("client-2"))),
        refused=PolicyRefusal if defended else None,
        match="repeats a client",
    )
    assert defended or np.array_equal(read, 3 * attacker.truth["client-2"])


def filled_up(attacker: Attacker, fabricated: dict[str, bytes]):
    """Reads client-0 from a roll that is filled up with uploads whose keys the server knows."""
    return attacker.opened(attacker.of("client-0") | fabricated, {"client-0": 1})


@stands_and_falls
@pytest.mark.parametrize("how", ["signed by the server", "signed by a colluder", "not signed"])
def test_uploads_in_true_clients_names_do_not_fill_up_a_roll(federate, monkeypatch, defended, how):
    """The server makes uploads in the names of true clients, to have one of them opened by itself."""
    machines = federate(contributions=contributions)
    attacker = collected(machines)
    signer = {
        "signed by the server": machines.identities[SERVER],
        "signed by a colluder": machines.identities["client-4"],
        "not signed": Identity.generate("nobody", Role.CLIENT),
    }[how]
    fabricated = {name: made(machines, attacker.announcement, name, signer) for name in ("client-1", "client-2")}
    if not defended:
        monkeypatch.setattr(*CLIENTS_BELIEVED)
    read = attempt(
        lambda: filled_up(attacker, fabricated),
        refused=SignatureError if defended else None,
        match="signature of 'client-1'",
    )
    assert attacker.nobody_is_bound() is defended
    assert defended or np.array_equal(read, attacker.truth["client-0"])


STRANGERS = {
    "stopped by cohort and signature": ((), PolicyRefusal),
    "stopped by the signature": (("cohort",), RosterError),
    "stopped by the cohort": (("signature",), PolicyRefusal),
    "not stopped": (("cohort", "signature"), None),
}


@pytest.mark.parametrize(("without", "refused"), STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize(
    "names", [("client-7", "client-8"), (SERVER, "member-03"), ("member-02", "member-03")], ids=str
)
def test_who_is_no_client_does_not_fill_up_a_roll(federate, monkeypatch, without, refused, names):
    """The server names a cohort of one true client and of strangers, or of itself and members, who all sign uploads.

    Client and member each refuse such a cohort; and who is no client of the roster signs no upload that counts.
    """
    machines = federate(contributions=contributions)
    machines.invited(0)
    if "cohort" in without:
        monkeypatch.setattr(Policy, "check_cohort", lambda *_: None)
    if "signature" in without:
        monkeypatch.setattr(*CLIENTS_BELIEVED)
    invitation = machines.forged_invitation(cohort=tuple(sorted({*machines.names, *names})))
    signers = {name: machines.identities.get(name) or Identity.generate(name, Role.CLIENT) for name in names}

    def opened():
        attacker = Attacker.tapping(machines, invitation, ["client-0"])
        fabricated = {name: made(machines, attacker.announcement, name, signers[name]) for name in names}
        return filled_up(attacker, fabricated), attacker.truth["client-0"]

    read = attempt(opened, refused=refused)
    assert refused or np.array_equal(*read)


@stands_and_falls
def test_members_look_at_the_cohort_themselves(federate, monkeypatch, defended):
    """As above, with clients that let any cohort pass."""
    machines = federate(contributions=contributions)
    machines.invited(0)
    monkeypatch.setattr(*CLIENTS_BELIEVED)
    with monkeypatch.context() as lax:
        lax.setattr(Policy, "check_cohort", lambda *_: None)
        invitation = machines.forged_invitation(cohort=("client-0", "client-7", "client-8"))
        attacker = Attacker.tapping(machines, invitation, ["client-0"])
    nobody = Identity.generate("nobody", Role.CLIENT)
    fabricated = {name: made(machines, attacker.announcement, name, nobody) for name in ("client-7", "client-8")}
    if not defended:
        monkeypatch.setattr(Policy, "check_cohort", lambda *_: None)
    read = attempt(
        lambda: filled_up(attacker, fabricated),
        refused=PolicyRefusal if defended else None,
        match="clients of the roster only",
    )
    assert attacker.nobody_is_bound() is defended
    assert defended or np.array_equal(read, attacker.truth["client-0"])


@stands_and_falls
def test_colluders_outside_the_cohort_do_not_fill_up_a_roll(federate, monkeypatch, defended):
    """Enrolled clients that were not invited to the round sign uploads to it, to outnumber the others in a roll."""
    machines = federate(contributions=contributions)
    attacker = collected(machines, cohort=("client-0", "client-1", "client-2"))
    colluders = {
        name: made(machines, attacker.announcement, name, machines.identities[name])
        for name in ("client-3", "client-4")
    }
    if not defended:
        rolls_checked_against(monkeypatch, cohort=machines.names)
    read = attempt(
        lambda: filled_up(attacker, colluders),
        refused=PolicyRefusal if defended else None,
        match="not in the cohort",
    )
    assert attacker.nobody_is_bound() is defended
    assert defended or np.array_equal(read, attacker.truth["client-0"])


@stands_and_falls
def test_a_roll_that_somebody_else_signed_is_not_voted_for(federate, monkeypatch, defended):
    """A client that saw the announcement and the uploads plays the server to the committee."""
    machines = federate(contributions=contributions)
    attacker = collected(machines)
    roll = attacker.roll(attacker.uploads)
    roll = replace(roll, signature=machines.identities["client-4"].sign(Domain.ROLL, roll.statement))
    if not defended:

        def check(roll, header, header_digest, *, roster, server):
            check_roll(machines.signed_roll(roll), header, header_digest, roster=roster, server=server)

        monkeypatch.setattr(f"{MEMBER}.check_roll", check)
    read = attempt(
        lambda: attacker.opened_roll(
            roll, dict.fromkeys(attacker.uploads, 1), ballots=attacker.ballots(roll, attacker.uploads)
        ),
        refused=SignatureError if defended else None,
        match="signature of 'server'",
    )
    assert defended or np.array_equal(read, attacker.sum_of(*machines.names))


@stands_and_falls
def test_a_roll_of_another_header_is_not_voted_for(federate, monkeypatch, defended):
    """The server hands a roll that lists uploads to one header together with another header of its making."""
    machines = federate(contributions=contributions)
    attacker = collected(machines)
    other = machines.forged_announcement(settings='{"other":1}')
    roll = attacker.roll(attacker.uploads)
    if not defended:

        def check(roll, header, header_digest, *, roster, server):
            check_roll(roll, header, roll.header_digest, roster=roster, server=server)

        monkeypatch.setattr(f"{MEMBER}.check_roll", check)
    ballot = machines.ballot_of(other, roll, attacker.uploads, "member-00")
    # The seals hold even then: a member that does not look cannot open boxes made for another header.
    expected: type[SecureFUError] = ProtocolError
    with pytest.raises(expected, match="of another round" if defended else "does not fit"):
        machines.members["member-00"].vote(ballot)
