"""Recovering a key when answers are missing or wrong: what is tolerated, what is named, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from math import comb, prod
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fu.crypto import InsecureDeterministicRandomness, SecureStream
from secure_fu.crypto.sharing import FIELD_PRIME, MAX_SUBSETS, CommitteeTerms, recover_key, share_key
from secure_fu.crypto.sharing import recovery as sharing_recovery
from secure_fu.crypto.sharing.terms import member_points, secret_points
from secure_fu.errors import ArgumentError, OpeningError

Answers = dict[int, NDArray[np.uint16]]
Spoil = Callable[[Answers, tuple[int, ...]], None]

LENGTH = 90
BOUND = 40
LARGEST = FIELD_PRIME // 2
KEY = np.random.default_rng(11).integers(-BOUND, BOUND + 1, LENGTH)
KEY[:2] = BOUND, -BOUND


def committee(members: int, threshold: int, corrupt: int) -> CommitteeTerms:
    return CommitteeTerms(members=members, threshold=threshold, quorum=members, corrupt=corrupt)


def honest(terms: CommitteeTerms) -> Answers:
    return dict(enumerate(share_key(KEY, terms, stream=InsecureDeterministicRandomness(7).stream("shares"))))


def accept(key: NDArray[np.int64]) -> str:
    """Key confirmation, as the check of the error bound is."""
    if key.tolist() != KEY.tolist():
        raise OpeningError("an error coefficient is beyond its bound")
    return "the sum"


def recover(answers: Answers, terms: CommitteeTerms, bound: int = BOUND) -> tuple[int, ...]:
    found = recover_key(answers, terms, length=LENGTH, bound=bound, accept=accept)
    assert found.value == "the sum"
    return found.misfits


def add(answers: Answers, member: int, errors: Any) -> None:
    answers[member] = ((answers[member].astype(np.int64) + errors) % FIELD_PRIME).astype(np.uint16)


def garbage(answers: Answers, wrong: tuple[int, ...]) -> None:
    rng = np.random.default_rng(wrong)
    for member in wrong:
        answers[member] = rng.integers(0, FIELD_PRIME, answers[member].size).astype(np.uint16)


def same_errors(answers: Answers, wrong: tuple[int, ...]) -> None:
    """Errors of rank one, for which the columns help no more than one of them."""
    errors = np.random.default_rng(wrong).integers(1, FIELD_PRIME, answers[wrong[0]].size)
    for member in wrong:
        add(answers, member, errors)


def one_element(answers: Answers, wrong: tuple[int, ...]) -> None:
    """As little as can be wrong: the last element, by one."""
    for member in wrong:
        add(answers, member, np.arange(answers[member].size) == answers[member].size - 1)


def one_element_each(answers: Answers, wrong: tuple[int, ...]) -> None:
    for member in wrong:
        add(answers, member, np.arange(answers[member].size) == member)


def all_patterns(members: int, most: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, most + 1):
        yield from combinations(range(members), size)


@pytest.mark.parametrize("spoil", [garbage, same_errors, one_element, one_element_each])
@pytest.mark.parametrize("terms", [committee(4, 3, 1), committee(6, 3, 1), committee(7, 5, 3), committee(10, 7, 3)])
def test_every_pattern_of_wrong_answers_is_tolerated_and_named(terms: CommitteeTerms, spoil: Spoil) -> None:
    shares = honest(terms)
    for wrong in all_patterns(terms.members, terms.members - terms.threshold):
        answers = dict(shares)
        spoil(answers, wrong)
        assert recover(answers, terms) == wrong


@pytest.mark.parametrize("spoil", [garbage, same_errors, one_element])
@pytest.mark.parametrize("terms", [committee(4, 3, 1), committee(5, 5, 2), committee(7, 5, 3), committee(10, 7, 3)])
def test_one_wrong_answer_more_is_refused(terms: CommitteeTerms, spoil: Spoil) -> None:
    shares = honest(terms)
    for wrong in combinations(range(terms.members), terms.members - terms.threshold + 1):
        answers = dict(shares)
        spoil(answers, wrong)
        with pytest.raises(OpeningError):
            recover(answers, terms)


@pytest.mark.parametrize("spoil", [garbage, same_errors, one_element])
def test_planned_errors_can_have_others_named_but_not_another_key(spoil: Spoil) -> None:
    """(x + 1) (x - 4) (x - 6) is the same at 2 and at 7, and zero at the secret's point, -1."""
    terms = committee(7, 4, 3)
    shares = honest(terms)
    for wrong in all_patterns(7, 3):
        answers = dict(shares)
        spoil(answers, wrong)
        misfits = recover(answers, terms)  # the right key
        assert len(misfits) <= len(wrong)
        if len(wrong) == 1 or spoil is garbage:
            assert misfits == wrong
        elif wrong == (1, 2, 6):
            assert misfits == (0, 2, 4)


@pytest.mark.parametrize(("wrong", "tolerated"), [((9,), True), ((1, 9), True), ((1, 4, 9), False)])
def test_members_are_named_by_their_position_when_others_did_not_answer(wrong: Any, tolerated: bool) -> None:
    terms = committee(10, 7, 3)
    answers = honest(terms)
    del answers[5]
    garbage(answers, wrong)
    if tolerated:
        assert recover(answers, terms) == wrong
        backwards = dict(reversed(answers.items()))
        assert recover(backwards, terms) == wrong
    else:
        with pytest.raises(OpeningError, match="9 answers do not fit together"):
            recover(answers, terms)


def test_a_clients_wrong_share_looks_like_its_members_wrong_answer() -> None:
    terms = committee(10, 7, 3)
    answers = honest(terms)
    bad = share_key(np.zeros(LENGTH, dtype=np.int64), terms, stream=SecureStream()).astype(np.int64)
    bad[4] = 5
    for member in answers:
        add(answers, member, bad[member])
    assert recover(answers, terms) == (4,)


def on_a_wrong_polynomial(answers: Answers, liars: tuple[int, ...], honest_ones: tuple[int, ...]) -> None:
    """The liars move onto a polynomial that differs from the first one, yet not at the honest ones' points."""
    for member in liars:
        shift = prod(member - other for other in honest_ones)
        add(answers, member, (np.arange(answers[member].size) == 0) * shift)


def test_liars_can_make_an_honest_member_the_misfit_and_acceptance_tells() -> None:
    """Nine of ten answers fit together on a wrong polynomial, and all coefficients are small enough."""
    terms = committee(10, 7, 3)
    liars = (7, 8, 9)
    answers = honest(terms)
    on_a_wrong_polynomial(answers, liars, (0, 1, 2, 3, 4, 5))
    seen = []

    def counting(key: NDArray[np.int64]) -> str:
        seen.append(key)
        return accept(key)

    found = recover_key(answers, terms, length=LENGTH, bound=LARGEST, accept=counting)
    assert found.misfits == liars
    assert seen[0].tolist() != KEY.tolist()
    assert len({tuple(key.tolist()) for key in seen}) == len(seen)  # no key is tried twice
    # Where the bound is that of honest sums, acceptance need not be asked so often.
    before = len(seen)
    assert recover_key(answers, terms, length=LENGTH, bound=BOUND, accept=counting).misfits == liars
    assert len(seen) - before < before

    fooled = recover_key(answers, terms, length=LENGTH, bound=LARGEST, accept=lambda key: key)
    assert fooled.misfits == (6,)  # which is honest: a misfit is no verdict

    def never(key: NDArray[np.int64]) -> None:
        raise OpeningError("no")

    with pytest.raises(OpeningError, match=r"positions 6 do not fit the other 9 \(if no more than 1 are wrong"):
        recover_key(answers, terms, length=LENGTH, bound=LARGEST, accept=never)


def test_planned_errors_of_a_committee_that_is_too_large_to_search() -> None:
    """Half of what is spare is tolerated whatever the errors, nearly all of it if they are not planned."""
    terms = committee(60, 30, 20)  # nine polynomials, so 30 * 9 / 10 unplanned errors
    shares = honest(terms)
    for spoil, most in [(same_errors, 15), (one_element, 15), (garbage, 27)]:
        for count in (most, most + 1):
            wrong = tuple(sorted(np.random.default_rng(count).permutation(60)[:count].tolist()))
            answers = dict(shares)
            spoil(answers, wrong)
            if count == most:
                assert recover(answers, terms) == wrong
            else:
                with pytest.raises(OpeningError, match="too many to try"):
                    recover(answers, terms)


def test_how_many_subsets_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of the documentation, and that a size is tried in full or not at all."""
    assert sum(comb(10, size) for size in (2, 3)) == 165
    assert sum(comb(16, size) for size in (3, 4, 5)) == 6748 <= MAX_SUBSETS
    terms = committee(16, 11, 5)
    answers = honest(terms)
    same_errors(answers, (0, 1, 2, 14, 15))
    assert recover(answers, terms) == (0, 1, 2, 14, 15)
    monkeypatch.setattr(sharing_recovery, "MAX_SUBSETS", 6748)
    assert recover(answers, terms) == (0, 1, 2, 14, 15)
    monkeypatch.setattr(sharing_recovery, "MAX_SUBSETS", 6747)
    with pytest.raises(
        OpeningError, match=r"2380 subsets of them with up to 4 .* tried; those with up to 5 left out are too many"
    ):
        recover(answers, terms)
    answers = honest(terms)
    same_errors(answers, (0, 1, 14, 15))
    assert recover(answers, terms) == (0, 1, 14, 15)


@pytest.mark.parametrize("came", [0, 1, 6])
def test_too_few_answers(came: int) -> None:
    terms = committee(10, 7, 3)
    answers = dict(list(honest(terms).items())[:came])
    with pytest.raises(OpeningError, match=f"{came} members answered; 7 are needed"):
        recover(answers, terms)


def test_the_bound_is_inclusive() -> None:
    terms = committee(5, 3, 1)
    assert recover(honest(terms), terms, bound=BOUND) == ()
    with pytest.raises(OpeningError, match="all 5 answers fit together"):
        recover(honest(terms), terms, bound=BOUND - 1)


@pytest.mark.parametrize("extra", [1, -1, LARGEST])
def test_coefficients_behind_the_last_must_be_zero(extra: int) -> None:
    terms = committee(7, 5, 1)  # four coefficients a polynomial: 90 leave two places in the last
    for place in range(2):
        longer = np.append(KEY, [0, 0])
        longer[LENGTH + place] = extra
        answers = dict(enumerate(share_key(longer, terms, stream=SecureStream())))
        assert recover_key(answers, terms, length=LENGTH + 2, bound=LARGEST, accept=lambda key: 1).value == 1
        with pytest.raises(OpeningError, match="all 7 answers fit together"):
            recover_key(answers, terms, length=LENGTH, bound=LARGEST, accept=lambda key: 1)


def test_exactly_enough_answers_tolerate_nothing_and_say_so() -> None:
    terms = committee(10, 7, 3)
    answers = dict(list(honest(terms).items())[:7])
    assert recover(answers, terms) == ()
    garbage(answers, (3,))
    with pytest.raises(OpeningError, match="with more answers than that, wrong ones could be left out"):
        recover(answers, terms)


def test_a_refused_key_says_why_and_other_errors_pass_through() -> None:
    terms = committee(5, 3, 1)

    def refuse(key: NDArray[np.int64]) -> None:
        raise OpeningError("the reason")

    def crash(key: NDArray[np.int64]) -> None:
        raise KeyError("a bug")

    with pytest.raises(OpeningError, match="all 5 answers fit together") as caught:
        recover_key(honest(terms), terms, length=LENGTH, bound=BOUND, accept=refuse)
    assert str(caught.value.__cause__) == "the reason"
    with pytest.raises(KeyError, match="a bug"):
        recover_key(honest(terms), terms, length=LENGTH, bound=BOUND, accept=crash)


def test_messages_hold_no_share() -> None:
    """Every number in a message is one of those that a stranger may know."""
    terms = committee(10, 7, 3)
    public = {str(number) for number in (3, 5, 7, 8, 9, 10, 165)} | {"0", "1", "2", "4", "6"}
    for wrong in [(2,), (2, 4), (0, 1, 2, 3)]:
        answers = honest(terms)
        garbage(answers, wrong)
        with pytest.raises(OpeningError) as caught:
            recover_key(answers, terms, length=LENGTH, bound=0, accept=accept)
        assert set(re.findall(r"\d+", str(caught.value))) <= public
    found = recover_key(honest(terms), terms, length=LENGTH, bound=BOUND, accept=lambda key: key)
    assert repr(found) == "Recovered(misfits=())"


@pytest.mark.parametrize(
    ("member", "answer"),
    [
        (-1, np.zeros(23, dtype=np.uint16)),
        (10, np.zeros(23, dtype=np.uint16)),
        ("3", np.zeros(23, dtype=np.uint16)),
        (3, np.zeros(22, dtype=np.uint16)),
        (3, np.zeros((23, 1), dtype=np.uint16)),
        (3, np.zeros(23, dtype=np.int64)),
        (3, np.full(23, FIELD_PRIME, dtype=np.uint16)),
    ],
)
def test_answers_that_are_not_decoded_shares_are_refused(member: Any, answer: Any) -> None:
    terms = committee(10, 7, 3)
    answers = honest(terms)
    answers[member] = answer
    with pytest.raises(ArgumentError, match="answers"):
        recover(answers, terms)


@pytest.mark.parametrize("changed", [{"bound": -1}, {"bound": LARGEST + 1}, {"bound": 1.0}, {"length": 0}])
def test_other_arguments_are_checked(changed: dict[str, Any]) -> None:
    terms = committee(10, 7, 3)
    arguments: dict[str, Any] = {"length": LENGTH, "bound": BOUND} | changed
    with pytest.raises(ArgumentError, match=next(iter(changed))):
        recover_key(honest(terms), terms, accept=accept, **arguments)


def test_points_of_members_and_of_secrets_do_not_meet() -> None:
    terms = committee(1024, 1024, 0)
    points = np.concatenate([member_points(terms), secret_points(terms)])
    assert np.unique(points).size == 2048
    assert points.min() > 0
    assert points.max() < FIELD_PRIME
