"""A malicious server against `kahe`: different rolls to different members."""

from __future__ import annotations

import numpy as np
import pytest
from committee_algebra import key_rows, learnt, rank, view_rows, within
from committee_attacker import MEMBER, Attacker, attempt, collected, contributions, stands_and_falls
from committee_machines import TEN
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.kahe import open_sum
from secure_fu.crypto.sharing import FIELD_PRIME
from secure_fu.errors import ArgumentError, PolicyRefusal, SignatureError
from secure_fu.protocol import MemberRecord
from secure_fu.protocol.committee.messages import VoteStatement

LOW = CommitteeTerms(members=4, threshold=2, quorum=3, corrupt=1)
"""A committee whose quorum is above its threshold: one honest answer and a corrupt one open a sum."""


def without_quorum(monkeypatch):
    monkeypatch.setattr(f"{MEMBER}.check_quorum", lambda *_, **__: None)


def told_by_views(attacker: Attacker, views: dict[str, tuple[str, ...]], *, all_votes: bool = False):
    """Show each honest member the roll that is meant for it; what they answer, with the votes for it or with all."""
    members_of: dict[tuple[str, ...], list[str]] = {}
    for member, names in views.items():
        members_of.setdefault(names, []).append(member)
    rolls = {names: attacker.roll(attacker.of(*names)) for names in members_of}
    votes = {
        names: attacker.votes(rolls[names], attacker.ballots(rolls[names], attacker.of(*names)), members)
        for names, members in members_of.items()
    }
    pooled = [vote for given in votes.values() for vote in given[attacker.header.corrupt :]]
    told = {}
    for names, members in members_of.items():
        shown = votes[names][: attacker.header.corrupt] + pooled if all_votes else votes[names]
        told |= attacker.answers(rolls[names], shown, members)
    return told


@stands_and_falls
def test_two_views_do_not_show_the_client_between_them(federate, monkeypatch, defended):
    """Two members get a roll, a third the same with client-3 in it, and the difference of the sums is client-3's."""
    attacker = collected(federate(contributions=contributions, terms=LOW))
    fewer, more = ("client-0", "client-1", "client-2"), ("client-0", "client-1", "client-2", "client-3")
    if not defended:
        without_quorum(monkeypatch)
    told = told_by_views(attacker, {"member-00": fewer, "member-01": fewer, "member-02": more})

    def difference():
        with_it = {"member-02": told["member-02"]} if "member-02" in told else {}
        lesser = {name: share for name, share in told.items() if name != "member-02"}
        smaller = attacker.read(lesser | attacker.pooled(dict.fromkeys(fewer, 1)), dict.fromkeys(fewer, 1))
        assert np.array_equal(smaller, attacker.sum_of(*fewer)), "which a quorum approved"
        if not with_it:
            raise attacker.refusals[0]
        larger = attacker.read(with_it | attacker.pooled(dict.fromkeys(more, 1)), dict.fromkeys(more, 1))
        return larger - smaller

    read = attempt(difference, refused=PolicyRefusal if defended else None, match="2 members voted")
    assert defended or np.array_equal(read, attacker.truth["client-3"])


@stands_and_falls
def test_votes_for_one_roll_do_not_count_for_another(federate, monkeypatch, defended):
    """The server shows the votes for one roll, true ones of honest members, as votes for another roll."""
    if not defended:
        of = VoteStatement.of

        def nothing_said(header, header_digest, roll_digest):
            return of(header, header_digest, bytes(32))

        monkeypatch.setattr(VoteStatement, "of", staticmethod(nothing_said))
    attacker = collected(federate(contributions=contributions, terms=LOW))
    fewer, more = ("client-0", "client-1", "client-2"), ("client-0", "client-1", "client-2", "client-3")
    views = {"member-00": fewer, "member-01": fewer, "member-02": more}
    told = told_by_views(attacker, views, all_votes=True)
    read = attempt(
        lambda: attacker.read(
            {name: told[name] for name in told if name == "member-02"} | attacker.pooled(dict.fromkeys(more, 1)),
            dict.fromkeys(more, 1),
        ),
        refused=SignatureError if defended else None,
        match="signature of 'member-0",
    )
    assert defended or np.array_equal(read, attacker.sum_of(*more))


A, B = ("client-0", "client-1", "client-2"), ("client-3", "client-4", "client-5")


def small_solution(combinations, values, bound):
    """The small integers x, shape (unknowns, n), with combinations @ x = values modulo p: one equation is missing."""
    # Reduced, all unknowns but one follow from it: try every small value of that one.
    unknowns = combinations.shape[1]
    work = np.concatenate([combinations, values], axis=1) % FIELD_PRIME
    for row, column in enumerate(range(unknowns - 1)):
        pivot = row + int(np.flatnonzero(work[row:, column])[0])
        work[[row, pivot]] = work[[pivot, row]]
        work[row] = work[row] * pow(int(work[row, column]), -1, FIELD_PRIME) % FIELD_PRIME
        factors = work[:, column].copy()
        factors[row] = 0
        work = (work - factors[:, None] * work[row]) % FIELD_PRIME
    last, known = work[:, unknowns - 1], work[:, unknowns:]
    guesses = np.arange(-bound, bound + 1)
    others = (known[:, :, None] - last[:, None, None] * guesses) % FIELD_PRIME
    others = np.where(others > FIELD_PRIME // 2, others - FIELD_PRIME, others)
    fits = (np.abs(others) <= bound).all(axis=0)
    assert (fits.sum(axis=1) == 1).all(), "one solution for each piece of the key"
    chosen = fits.argmax(axis=1)
    found = np.take_along_axis(others, chosen[None, :, None], axis=2)[:, :, 0]
    return np.concatenate([found, guesses[chosen][None]])


@stands_and_falls
def test_three_overlapping_views_do_not_open_what_nobody_approved(federate, monkeypatch, defended):
    """Two honest members are shown A, two B, three A and B: with the corrupt three's shares that opens A and B apart.

    No two of the three kinds of answers are enough. Together they give seven equations on eight small numbers.
    """
    attacker = collected(federate(contributions=contributions, terms=TEN, clients=6))
    if not defended:
        without_quorum(monkeypatch)
    views = dict(zip(attacker.honest, [A, A, B, B, A + B, A + B, A + B], strict=True))
    told = told_by_views(attacker, views)

    def apart():
        if not told:
            raise attacker.refusals[0]
        # A and B are like two clients: what is told of them is a sum over {0}, {1} or {0, 1}.
        answers = {
            position: [names in (A, A + B), names in (B, A + B)] for position, names in enumerate(views.values())
        }
        sums = {position: [index for index in (0, 1) if held[index]] for position, held in answers.items()}
        corrupt = range(len(attacker.honest), TEN.members)
        view, keys = view_rows(sums, corrupt, 2, TEN), key_rows(2, TEN)
        combinations, weights = learnt(view, keys)
        assert rank(combinations) == 2 * TEN.packing - 1
        shares = [attacker.pooled(dict.fromkeys(names, 1)) for names in (A, B)]
        seen = [told[member] for member in attacker.honest]
        seen += [shares[index][member] for member in attacker.corrupt for index in (0, 1)]
        values = weights @ np.array(seen, dtype=np.int64) % FIELD_PRIME
        found = small_solution(combinations, values, attacker.layout.key_bound(3))
        read = []
        for index, names in enumerate((A, B)):
            key = found[TEN.packing * index :][: TEN.packing].T.reshape(-1)[: attacker.layout.parameter_set.degree]
            total = attacker.total_of(names)
            read.append(open_sum(attacker.layout, total, key, seed=attacker.announcement.header_digest, uploads=3))
        return read

    read = attempt(apart, refused=PolicyRefusal if defended else None, match="voted for this roll; a quorum is 7")
    assert defended or np.array_equal(read, [attacker.sum_of(*A), attacker.sum_of(*B)])


@st.composite
def many_views(draw):
    """Any committee, any clients, and any roll for each honest member; most often from a few rolls."""
    members = draw(st.integers(1, 8))
    corrupt = draw(st.integers(0, members - 1))
    terms = CommitteeTerms(
        members=members,
        threshold=draw(st.integers(corrupt + 1, members)),
        quorum=draw(st.integers((members + corrupt) // 2 + 1, members)),
        corrupt=corrupt,
    )
    clients = draw(st.integers(2, 4))
    rolls = st.frozensets(st.integers(0, clients - 1), min_size=1)
    few = draw(st.lists(rolls, min_size=1, max_size=3))
    shown = draw(st.lists(st.sampled_from(few), min_size=members - corrupt, max_size=members - corrupt))
    return terms, clients, shown


@settings(max_examples=300)
@given(many_views())
def test_no_committee_within_its_terms_gives_more_than_one_approved_sum(case):
    """For any valid committee and any views: the rolls with a quorum are one at most, and nothing but its sum follows.

    Corrupt members vote for everything and tell all their shares.
    """
    terms, clients, shown = case
    approved = {roll for roll in shown if shown.count(roll) + terms.corrupt >= terms.quorum}
    assert len(approved) <= 1
    answers = {member: roll for member, roll in enumerate(shown) if roll in approved}
    view = view_rows(answers, range(len(shown), terms.members), clients, terms)
    combinations, _ = learnt(view, key_rows(clients, terms))
    assert within(combinations, next(iter(approved), None), clients, terms)
    enough = len(answers) + terms.corrupt >= terms.threshold
    assert (rank(combinations) == terms.packing) if enough and approved else rank(combinations) <= terms.packing


@pytest.mark.parametrize("terms", [CommitteeTerms(members=10, threshold=7, quorum=7, corrupt=3), LOW])
def test_the_algebra_finds_what_a_missing_quorum_gives_away(terms):
    """Without the vote, most assignments of two or three rolls give away sums that nobody approved."""
    chance = np.random.default_rng(5)
    honest, given_away = terms.members - terms.corrupt, 0
    for _ in range(60):
        few = [frozenset(np.flatnonzero(chance.integers(0, 2, 4)).tolist()) or frozenset({0}) for _ in range(3)]
        shown = [few[chance.integers(3)] for _ in range(honest)]
        approved = [roll for roll in set(shown) if shown.count(roll) + terms.corrupt >= terms.quorum]
        view = view_rows(dict(enumerate(shown)), range(honest, terms.members), 4, terms)
        combinations, _ = learnt(view, key_rows(4, terms))
        given_away += not within(combinations, approved[0] if approved else None, 4, terms)
    assert given_away >= 40


@stands_and_falls
def test_random_views_give_nothing_but_an_approved_sum(federate, monkeypatch, defended):
    """The server shows true members random rolls, the corrupt ones vote for all of them; all that is told is solved."""
    machines = federate(contributions=contributions, terms=TEN)
    attacker = collected(machines)
    if not defended:
        without_quorum(monkeypatch)
    chance = np.random.default_rng(3)
    keys, given_away, opened = key_rows(len(machines.names), TEN), 0, 0
    for attempt_number in range(16):
        # Each time with members that know nothing of the times before: of one round there is only one.
        for name in attacker.honest:
            machines.members[name] = machines.member(name, record=MemberRecord())
        few = [tuple(sorted(chance.choice(machines.names, size, replace=False))) for size in (3, 4, 4)]
        odds = [0.8, 0.1, 0.1] if attempt_number % 2 else [0.4, 0.3, 0.3]
        views = {name: few[chance.choice(3, p=odds)] for name in attacker.honest}
        told = told_by_views(attacker, views)
        answers = {
            position: [machines.names.index(client) for client in views[name]]
            for position, name in enumerate(attacker.honest)
            if name in told
        }
        view = view_rows(answers, range(len(attacker.honest), TEN.members), len(machines.names), TEN)
        combinations, _ = learnt(view, keys)
        approved = [roll for roll in few if list(views.values()).count(roll) >= TEN.quorum - TEN.corrupt]
        positions = [machines.names.index(client) for client in approved[0]] if approved else None
        given_away += not within(combinations, positions, len(machines.names), TEN)
        opened += len(combinations) > 0
    assert opened > 0, "some views do have a quorum"
    assert given_away == 0 if defended else given_away >= 8


def test_a_quorum_one_lower_would_let_two_rolls_pass():
    """The corrupt members vote for two rolls and the honest ones are split between them: at the bound, not below it."""
    for members in range(1, 14):
        for corrupt in range(members):
            least = (members + corrupt) // 2 + 1
            honest = members - corrupt
            splits = [(first, honest - first) for first in range(honest + 1)]
            both = [min(split) + corrupt for split in splits]
            assert max(both) == least - 1 or honest == 1
            assert max(both) < least
            with pytest.raises(ArgumentError):
                CommitteeTerms(members=members, threshold=members, quorum=least - 1, corrupt=corrupt)
