"""What can go wrong in the sharing of keys without anybody noticing: rounds work on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.sharing import shares as sharing
from secure_fu.crypto.sharing._field import lagrange, uniform_elements
from secure_fu.crypto.sharing.terms import member_points, secret_points

__all__ = [
    "TERMS",
    "no_random_values",
    "one_random_value_too_few",
    "polynomials_of_the_key_alone",
    "the_same_random_values_for_all_polynomials",
]

TERMS = CommitteeTerms(members=7, threshold=6, quorum=5, corrupt=2)
"""Of the committee whose sharing goes wrong."""


def polynomials_of_the_key_alone(patch: pytest.MonkeyPatch) -> None:
    """Of the lowest degree through the packed values: with one packed value, constants."""
    matrix = np.zeros((TERMS.members, TERMS.threshold), dtype=np.int64)
    matrix[:, : TERMS.packing] = lagrange(secret_points(TERMS), member_points(TERMS))[0]
    constant: Any = lambda terms: matrix  # noqa: E731
    constant.cache_clear = lambda: None
    patch.setattr(sharing, "_sharing_matrix", constant)


def no_random_values(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sharing, "uniform_elements", lambda count, *, stream: np.zeros(count, dtype=np.int64))


def the_same_random_values_for_all_polynomials(patch: pytest.MonkeyPatch) -> None:
    def repeated(count: int, *, stream: Any) -> NDArray[np.int64]:
        return np.repeat(uniform_elements(TERMS.corrupt, stream=stream), count // TERMS.corrupt)

    patch.setattr(sharing, "uniform_elements", repeated)


def one_random_value_too_few(patch: pytest.MonkeyPatch) -> None:
    def short(count: int, *, stream: Any) -> NDArray[np.int64]:
        half = uniform_elements(count // 2, stream=stream)
        return np.concatenate([half, half])

    patch.setattr(sharing, "uniform_elements", short)
