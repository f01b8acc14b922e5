"""Recovering a sum of keys from the answers of a committee, some of which may be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto._checks import require_int
from secure_fu.crypto._secret import Secret
from secure_fu.crypto.sharing._decoding import is_consistent, locate_surely, locate_unplanned, subsets, wrong_columns
from secure_fu.crypto.sharing._field import FIELD_PRIME, LARGEST_LIFTED, check_elements, lagrange, lifted
from secure_fu.crypto.sharing.terms import CommitteeTerms, member_points, secret_points
from secure_fu.errors import OpeningError

__all__ = ["MAX_SUBSETS", "Recovered", "recover_key"]

MAX_SUBSETS: Final = 10_000
"""How many subsets of the answers :func:`recover_key` tries at most."""

# A subset is tried on some coefficients first; hardly a wrong one survives that.
_PROBED_COLUMNS: Final = 8
_PROBED_POINTS: Final = 8
_PORTION: Final = 1 << 18  # matrix entries that a portion of subsets takes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Recovered(Generic[T]):
    """What :func:`recover_key` found.

    Args:
        value: what ``accept`` returned.
        misfits: positions in the committee, from 0 on and ascending, whose answers do not lie on the polynomials of the
            accepted candidate. That is no verdict on the member: its answer may be wrong, or a client's share to it.
            With more than R // 2 of them (see :func:`recover_key`), errors that were planned together can have others
            named, while the key is the right one.
    """

    value: T = field(repr=False)
    misfits: tuple[int, ...]


def recover_key(
    answers: Mapping[int, NDArray[np.uint16]],
    terms: CommitteeTerms,
    *,
    length: int,
    bound: int,
    accept: Callable[[NDArray[np.int64]], T],
) -> Recovered[T]:
    """Recover a sum of keys from the members' sums of shares, and leave out answers that do not fit.

    A candidate is a key whose polynomials pass through at least t of the answers. Its coefficients must be within
    ``bound``, with zeros behind the last; then ``accept`` decides. Of r answers, R = r - t are more than are needed.

    - If all fit, there is one candidate.
    - Up to R // 2 misfits are found whatever they are, by linear algebra, however large the committee. So are up to
      R c // (c + 1), for keys of c polynomials (R - 1, for c of at least that), if the errors were not planned
      together, as those of random or stale answers are not. That makes a candidate or two.
    - Otherwise, and if those candidates are refused, the subsets of the answers are tried: R // 2 + 1 left out, then
      more up to R; each number in full, and only while the subsets come to at most :data:`MAX_SUBSETS` in all. Where
      that is enough for R, all sets of up to R misfits are tolerated: r = 10, t = 7 takes 165, r = 16, t = 11 6748.

    Where more than R // 2 answers may be wrong, ``accept`` alone tells which candidate is right. Members that plan
    their answers can make an honest one look like the misfit of some candidate, even one with small coefficients. So
    ``accept`` must be a check that a wrong key fails (a key confirmation), and had better fail fast: it is called once
    for each candidate, of which planned answers can make many if ``bound`` is near its most.

    Args:
        answers: for each member that answered, by its position in the committee from 0 on, uint16 of shape
            (``terms.share_length(length)``,), as :func:`decode_share` returns it.
        terms: the committee's terms.
        length: N, the number of coefficients of a key.
        bound: the largest absolute value that a coefficient of the sum may have, at most (p - 1) / 2.
        accept: gets a candidate, int64 of shape (N,), secret; raises OpeningError if it is not the sum of the keys.

    Returns:
        what ``accept`` returned for the first candidate that it accepted, and the positions that do not fit that one.

    Raises:
        ArgumentError: an argument is outside its domain.
        OpeningError: fewer than t answers came, or no candidate was accepted. With exactly t answers there is a single
            candidate, so that one wrong answer prevents the opening.
    """
    search = _Search(answers, terms, length=length, bound=bound)
    refused: set[tuple[int, ...]] = set()
    reason: OpeningError | None = None
    for left_out in search.candidates():
        found = search.key_without(left_out)
        if found is None or found[1] in refused:
            continue
        key, misfits = found
        try:
            return Recovered(value=accept(key), misfits=misfits)
        except OpeningError as error:
            refused.add(misfits)
            reason = error
    raise OpeningError(search.why_not()) from reason


class _Search(Secret):
    """The answers of one opening, and the ways to read a key out of them."""

    __slots__ = ("_bound", "_length", "_members", "_most_left_out", "_points", "_sure", "_terms", "_tried", "_words")

    def __init__(
        self, answers: Mapping[int, NDArray[np.uint16]], terms: CommitteeTerms, *, length: int, bound: int
    ) -> None:
        self._length = require_int("length", length, least=1)
        self._bound = require_int("bound", bound, least=0, most=LARGEST_LIFTED)
        self._terms = terms
        size = terms.share_length(length)
        for member, answer in answers.items():
            require_int("answers: a position", member, least=0, most=terms.members - 1)
            check_elements(f"answers[{member}]", answer, length=size)
        if len(answers) < terms.threshold:
            raise OpeningError(f"{len(answers)} members answered; {terms.threshold} are needed to open the sum")
        self._members = sorted(answers)
        self._points = member_points(terms)[self._members]
        self._words = np.stack([answers[member] for member in self._members]).astype(np.int64)
        self._sure: tuple[int, ...] | None = None
        self._tried = self._most_left_out = 0

    def candidates(self) -> Iterator[tuple[int, ...]]:
        """Yield rows to leave out: none if all fit, else what is found by algebra, then what is found by search."""
        threshold = self._terms.threshold
        wrong = wrong_columns(self._points, self._words, threshold)
        if not wrong.size:
            self._sure = ()
            yield ()
            return
        self._sure = locate_surely(self._points, self._words, threshold)
        if self._sure is not None:
            yield self._sure
        unplanned = locate_unplanned(self._points, self._words, threshold)
        if unplanned is not None:
            yield unplanned
        count = self._points.size
        points = secret_points(self._terms)[:_PROBED_POINTS]
        probed = self._words[:, wrong[:_PROBED_COLUMNS]]
        for size in range((count - threshold) // 2 + 1, count - threshold + 1):
            if self._tried + math.comb(count, size) > MAX_SUBSETS:
                return
            self._tried += math.comb(count, size)
            self._most_left_out = size
            for kept in subsets(count, size, max(1, _PORTION // (points.size * count))):
                values = lagrange(self._points, points, keep=kept) @ probed
                small = (np.abs(lifted(values)) <= self._bound).all(axis=(1, 2))
                for row in kept[small]:
                    yield tuple(int(position) for position in np.flatnonzero(~row))

    def key_without(self, left_out: tuple[int, ...]) -> tuple[NDArray[np.int64], tuple[int, ...]] | None:
        """Return the key that the other rows give, shape (N,), and all members that do not fit it.

        ``None`` if the other rows do not lie on polynomials, or the key is not small with zeros behind it.
        """
        points, words = np.delete(self._points, left_out), np.delete(self._words, left_out, axis=0)
        if not is_consistent(points, words, self._terms.threshold):
            return None
        packed = lagrange(points, secret_points(self._terms))[0] @ words
        coefficients = lifted(packed).T.reshape(-1)
        key = coefficients[: self._length]
        if coefficients[self._length :].any() or int(np.abs(key).max()) > self._bound:
            return None
        rows = list(left_out)
        expected = lagrange(points, self._points[rows])[0] @ words % FIELD_PRIME
        differs = (expected != self._words[rows]).any(axis=1)
        return key, tuple(self._members[row] for row, wrong in zip(rows, differs, strict=True) if wrong)

    def why_not(self) -> str:
        """Say what the search came to, without any value of a share."""
        count, threshold = self._points.size, self._terms.threshold
        if self._sure == ():
            more = "" if count > threshold else "; with more answers than that, wrong ones could be left out"
            return f"all {count} answers fit together ({threshold} are needed), but the key was not accepted{more}"
        spare = count - threshold
        tried = f"{self._tried} subsets of them with up to {self._most_left_out} of them left out were tried"
        if not self._tried:
            tried = "the subsets of them are too many to try"
        elif self._most_left_out < spare:
            tried += f"; those with up to {spare} left out are too many"
        if self._sure is None:
            return f"the {count} answers do not fit together, and no key was accepted ({tried})"
        named, few = ", ".join(str(self._members[row]) for row in self._sure), len(self._sure)
        return (
            f"the answers at positions {named} do not fit the other {count - few} (if no more than {few} are wrong,"
            f" then these, or a client's shares to them), but without them no key was accepted either ({tried})"
        )
