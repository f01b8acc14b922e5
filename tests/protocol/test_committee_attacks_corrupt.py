"""A malicious server against `kahe`, with as many corrupt members and colluding clients as it is made to withstand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from committee_algebra import key_rows, learnt, view_rows, within
from committee_attacker import MEMBER, attempt, collected, contributions, made_upload, stands_and_falls
from committee_machines import SMALL, TEN

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.kahe import open_sum
from secure_fu.crypto.sharing import recover_key
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import OpeningError, PolicyRefusal, SignatureError
from secure_fu.protocol.committee.messages import Vote, VoteStatement
from secure_fu.protocol.committee.votes import check_quorum
from secure_fu.protocol.messages import Domain, digest

LOW = CommitteeTerms(members=4, threshold=2, quorum=3, corrupt=1)


@stands_and_falls
@pytest.mark.parametrize("terms", [LOW, SMALL, TEN], ids=lambda terms: f"{terms.members} members")
def test_the_shares_of_corrupt_members_open_no_client(federate, defended, terms):
    """The corrupt members tell the server all their shares of one client; with a threshold of them, they open it."""
    attacker = collected(federate(contributions=contributions, terms=terms))
    members = attacker.header.committee[-terms.corrupt :] if defended else attacker.header.committee[-terms.threshold :]
    told = {
        name: attacker.machines.corrupt_share(attacker.announcement, attacker.of("client-0"), name) for name in members
    }
    read = attempt(
        lambda: attacker.machines.opens(attacker.announcement, attacker.of("client-0"), told),
        refused=OpeningError if defended else None,
    )
    assert defended or np.array_equal(read, attacker.truth["client-0"])


@pytest.mark.parametrize("terms", [LOW, SMALL, TEN], ids=lambda terms: f"{terms.members} members")
def test_corrupt_shares_say_nothing_at_all_and_one_more_says_something(terms):
    """Of the key of one client f members learn no combination of coefficients; f + 1 would learn one of each piece."""
    keys = key_rows(1, terms)
    for count, learns in ((terms.corrupt, 0), (terms.corrupt + 1, 1), (terms.threshold, terms.packing)):
        combinations, _ = learnt(view_rows({}, range(count), 1, terms), keys)
        assert len(combinations) == learns


def believes_what_is_there(votes, header, *, header_digest, roll_digest, roster, **_):
    """Counts votes; asks neither whose they are nor whether they are true."""
    if len(votes) < header.quorum:
        raise PolicyRefusal("too few")


def counts_repeats(votes, header, *, header_digest, roll_digest, roster, **_):
    """Verifies votes, and counts a member's as often as it is shown."""
    believes_what_is_there(votes, header, header_digest=header_digest, roll_digest=roll_digest, roster=roster)
    once = tuple({vote.name: vote for vote in votes}.values())
    lax = replace(header, quorum=len(once))
    check_quorum(once, lax, header_digest=header_digest, roll_digest=roll_digest, roster=roster)


def counts_strangers(votes, header, *, header_digest, roll_digest, roster, **_):
    """Verifies votes, of whoever is in the roster."""
    believes_what_is_there(votes, header, header_digest=header_digest, roll_digest=roll_digest, roster=roster)
    statement = encode(VoteStatement.of(header, header_digest, roll_digest))
    for vote in votes:
        roster.verify(vote.name, roster.party(vote.name).role, Domain.VOTE, statement, vote.signature)


STUFFED = {
    "the corrupt member's vote twice": ("member-03", "member-03", counts_repeats, PolicyRefusal, "counted twice"),
    "a colluder's vote": ("client-4", "client-4", counts_strangers, PolicyRefusal, "not in the committee"),
    "an honest member's name": ("member-00", "member-03", believes_what_is_there, SignatureError, "'member-00'"),
}


@stands_and_falls
@pytest.mark.parametrize(("name", "signer", "lax", "refused", "match"), STUFFED.values(), ids=STUFFED)
def test_ballots_are_not_stuffed(federate, monkeypatch, defended, name, signer, lax, refused, match):
    """One honest member is shown a roll of its own; the server fills its quorum up with votes that are none."""
    attacker = collected(federate(contributions=contributions, terms=LOW))
    if not defended:
        monkeypatch.setattr(f"{MEMBER}.check_quorum", lax)
    chosen = attacker.machines.names[:3]
    roll = attacker.roll(attacker.of(*chosen))
    ballots = attacker.ballots(roll, attacker.of(*chosen))
    votes = attacker.votes(roll, ballots, ["member-02"])
    extra = decode(Vote, attacker.machines.corrupt_vote(attacker.announcement, roll, signer))
    votes.append(encode(replace(extra, approval=replace(extra.approval, name=name))))
    weights = dict.fromkeys(chosen, 1)
    read = attempt(
        lambda: attacker.opened_roll(roll, weights, ballots=ballots, members=["member-02"], votes=votes),
        refused=refused if defended else None,
        match=match,
    )
    assert defended or np.array_equal(read, attacker.sum_of(*chosen))


@stands_and_falls
def test_an_answer_needs_a_quorum_and_not_only_votes(federate, monkeypatch, defended):
    """The server shows one honest member's vote and the corrupt member's: two of four, and three are a quorum."""
    attacker = collected(federate(contributions=contributions, terms=LOW))
    if not defended:
        monkeypatch.setattr(f"{MEMBER}.check_quorum", lambda *_, **__: None)
    everybody = dict.fromkeys(attacker.uploads, 1)
    read = attempt(
        lambda: attacker.opened(attacker.uploads, everybody, members=["member-02"]),
        refused=PolicyRefusal if defended else None,
        match="2 members voted for this roll; a quorum is 3",
    )
    assert defended or np.array_equal(read, attacker.sum_of(*attacker.uploads))


def two_honest_clients(machines):
    """A round opened with colluders beside two honest clients: the server knows all that they know."""
    attacker = collected(machines)
    everybody = machines.names
    roll = attacker.roll(attacker.uploads)
    votes = attacker.votes(roll, attacker.ballots(roll, attacker.uploads))
    told = attacker.answers(roll, votes) | attacker.pooled(dict.fromkeys(everybody, 1))
    return attacker, told


@pytest.mark.parametrize("terms", [SMALL, TEN], ids=lambda terms: f"{terms.members} members")
@pytest.mark.parametrize("more", [0, 1], ids=["f corrupt members", "one more"])
def test_of_two_honest_clients_only_the_sum_shows_in_the_shares(terms, more):
    """All other clients and f members pool everything, all others answer: nothing follows but the sum of two keys.

    The defence is that no more than f are corrupt; one more, and coefficients of single keys begin to show.
    """
    corrupt = terms.corrupt + more
    answers = dict.fromkeys(range(terms.members - corrupt), (0, 1))
    view = view_rows(answers, range(terms.members - corrupt, terms.members), 2, terms)
    combinations, _ = learnt(view, key_rows(2, terms))
    assert within(combinations, (0, 1), 2, terms) is (more == 0)
    assert len(combinations) == terms.packing + more


@stands_and_falls
def test_two_honest_clients_are_not_told_apart(federate, defended):
    """The server takes the colluders' part from the opened sum and tries all keys it can make on one client's upload.

    Taken out is the threshold: as many members as answer tell what they hold of that client alone.
    """
    machines = federate(contributions=contributions, terms=TEN, minimum=5, colluders=3)
    attacker, told = two_honest_clients(machines)
    colluders = machines.names[2:]
    everything = attacker.read(told, dict.fromkeys(machines.names, 1))
    of_two = everything - attacker.sum_of(*colluders)
    assert np.array_equal(of_two, attacker.sum_of("client-0", "client-1")), "which it may know"
    assert not np.array_equal(of_two, attacker.truth["client-0"])

    layout, header = attacker.layout, attacker.header
    whole = recover_key(
        {header.committee.index(name): share for name, share in told.items()},
        TEN,
        length=layout.parameter_set.degree,
        bound=layout.key_bound(5),
        accept=lambda key: key,
    ).value
    keys = [whole, whole // 2, np.zeros_like(whole), whole - whole // 2]
    if not defended:
        shares = {
            header.committee.index(name): machines.corrupt_share(attacker.announcement, attacker.of("client-0"), name)
            for name in header.committee[: TEN.threshold]
        }
        keys.append(
            recover_key(
                shares,
                TEN,
                length=layout.parameter_set.degree,
                bound=layout.key_bound(1),
                accept=lambda key: key,
            ).value
        )
    opened = []
    for key in keys:
        try:
            opened.append(
                open_sum(
                    layout,
                    attacker.total_of(["client-0"]),
                    np.clip(key, -layout.key_bound(1), layout.key_bound(1)),
                    seed=attacker.announcement.header_digest,
                    uploads=1,
                )
            )
        except OpeningError:
            continue
    assert len(opened) == (0 if defended else 1)
    assert defended or np.array_equal(opened[0], attacker.truth["client-0"])


@stands_and_falls
def test_colluders_do_not_count_as_honest_clients(federate, monkeypatch, defended):
    """A roll of one honest client and colluders with keys that the server made is below the least that may be opened.

    The policy's colluders are part of the minimum cohort: with so many of them there are two honest clients in a roll.
    """
    machines = federate(contributions=contributions, minimum=4, colluders=2)
    attacker = collected(machines)
    made = {
        name: made_upload(machines, attacker.announcement, name, machines.identities[name])
        for name in ("client-3", "client-4")
    }
    if not defended:
        monkeypatch.setattr(f"{MEMBER}.check_roll", lambda *_, **__: None)
    read = attempt(
        lambda: attacker.opened(attacker.of("client-0") | made, {"client-0": 1}),
        refused=PolicyRefusal if defended else None,
        match="3 clients; this round opens with at least 4",
    )
    assert defended or np.array_equal(read, attacker.truth["client-0"])


@stands_and_falls
def test_a_signature_for_another_purpose_is_no_vote(federate, monkeypatch, defended):
    """A corrupt member's signature for another purpose, over the very same statement, is shown as its vote."""
    machines = federate(contributions=contributions, terms=LOW)
    attacker = collected(machines)
    roll = attacker.roll(attacker.uploads)
    statement = encode(VoteStatement.of(attacker.header, attacker.announcement.header_digest, digest(roll.statement)))
    vote = decode(Vote, attacker.machines.corrupt_vote(attacker.announcement, roll, "member-03"))
    signature = machines.identities["member-03"].sign(Domain.ANSWER, statement)
    wrong = encode(replace(vote, approval=replace(vote.approval, signature=signature)))
    if not defended:
        true = machines.roster.verify

        def verify(self, name, role, domain, message, signature):
            true(
                name,
                role,
                Domain.ANSWER if domain is Domain.VOTE and name == "member-03" else domain,
                message,
                signature,
            )

        monkeypatch.setattr("secure_fu.crypto.identity.Roster.verify", verify)
    ballots = attacker.ballots(roll, attacker.uploads)
    votes = [*attacker.votes(roll, ballots, ["member-00", "member-01"])[1:], wrong]
    read = attempt(
        lambda: attacker.opened_roll(
            roll, dict.fromkeys(attacker.uploads, 1), ballots=ballots, members=["member-00", "member-01"], votes=votes
        ),
        refused=SignatureError if defended else None,
        match="signature of 'member-03'",
    )
    assert defended or np.array_equal(read, attacker.sum_of(*attacker.uploads))
