"""The terms of a committee: what each condition is for, and which committees are refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import combinations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secure_fu.crypto.sharing import MAX_MEMBERS, CommitteeTerms
from secure_fu.errors import ArgumentError

GOOD = {"members": 10, "threshold": 7, "quorum": 7, "corrupt": 3}


def test_what_follows_from_the_terms() -> None:
    terms = CommitteeTerms(**GOOD)
    assert terms.packing == 4
    assert [terms.share_length(degree) for degree in (1, 4, 5, 8192)] == [1, 1, 2, 2048]
    assert terms.share_bytes(8192) == 4096
    with pytest.raises(FrozenInstanceError):
        terms.corrupt = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    "terms",
    [
        {"members": 1, "threshold": 1, "quorum": 1, "corrupt": 0},
        {"members": 2, "threshold": 1, "quorum": 2, "corrupt": 0},
        {"members": 2, "threshold": 2, "quorum": 2, "corrupt": 1},
        {"members": MAX_MEMBERS, "threshold": MAX_MEMBERS, "quorum": MAX_MEMBERS, "corrupt": MAX_MEMBERS - 1},
        {"members": 4, "threshold": 4, "quorum": 3, "corrupt": 1},
    ],
)
def test_committees_at_the_border_are_fine(terms: dict[str, int]) -> None:
    assert CommitteeTerms(**terms).packing == terms["threshold"] - terms["corrupt"]


@pytest.mark.parametrize(
    ("changed", "argument", "message"),
    [
        ({"members": 0}, "members", "at least 1"),
        ({"members": MAX_MEMBERS + 1}, "members", f"at most {MAX_MEMBERS}"),
        ({"corrupt": -1}, "corrupt", "at least 0"),
        ({"corrupt": 10}, "corrupt", "at most 9: one of the 10 members is honest"),
        ({"threshold": 0}, "threshold", "at least 1"),
        ({"threshold": 3}, "threshold", "from 4 .*corrupt.* to 10"),
        ({"threshold": 11}, "threshold", "from 4 .* to 10 .members."),
        ({"quorum": 0}, "quorum", "at least 1"),
        ({"quorum": 6}, "quorum", "from 7 .*honest member.* to 10"),
        ({"quorum": 11}, "quorum", "from 7 .* to 10 .members."),
        ({"members": 9, "corrupt": 3, "quorum": 6}, "quorum", "from 7"),  # 2 Q = m + f is not enough
    ],
)
def test_bad_committees_are_refused(changed: dict[str, int], argument: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        CommitteeTerms(**(GOOD | changed))
    assert caught.value.argument == argument
    assert caught.value.value == changed[argument]


@pytest.mark.parametrize("argument", GOOD)
@pytest.mark.parametrize("value", [7.0, "7", None, True])
def test_numbers_that_are_no_ints_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        CommitteeTerms(**(GOOD | {argument: value}))
    assert caught.value.argument == argument


@pytest.mark.parametrize("degree", [0, -1, 8192.0, None])
def test_bad_degrees_are_refused(degree: Any) -> None:
    with pytest.raises(ArgumentError, match="degree"):
        CommitteeTerms(**GOOD).share_length(degree)


@given(st.integers(1, 7), st.integers(0, 6), st.integers(1, 7))
def test_the_quorum_is_right_just_if_any_two_share_an_honest_member(members: int, corrupt: int, quorum: int) -> None:
    assume(corrupt < members and quorum <= members)
    quorums = [set(chosen) for chosen in combinations(range(members), quorum)]
    least_shared = min(len(one & other) for one in quorums for other in quorums)
    terms = {"members": members, "threshold": members, "quorum": quorum, "corrupt": corrupt}
    if least_shared > corrupt:
        CommitteeTerms(**terms)
    else:
        with pytest.raises(ArgumentError, match="quorum"):
            CommitteeTerms(**terms)
