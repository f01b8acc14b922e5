"""Poisson sampling: each unit is in the sample by its own coin, as the amplified accounting assumes.

Guarantee: a unit is in with probability floor(rate * 2**64) / 2**64, independently of all others. That is at most
``rate`` and less than it by under 2**-64, given that the stream's words are uniform and independent. Which units were
drawn must stay secret in the silo; the rate is public.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning.records import Records

__all__ = ["RandomStream", "poisson_sample", "poisson_sample_groups"]


class RandomStream(Protocol):
    """A source of uniform words that never repeats; ``secure_fu.crypto`` has the secure one."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """``count`` fresh independent uniform 64-bit words."""
        ...


def poisson_sample(count: int, rate: float, stream: RandomStream) -> NDArray[np.bool_]:
    """Draw a Poisson sample of ``count`` units.

    Args:
        count: number of units, >= 0.
        rate: probability of each, in (0, 1]; 1 takes all and draws nothing.
        stream: randomness, secret for the amplification to hold.

    Returns:
        Mask of shape (count,), true where the unit is in. It can be all false.

    Raises:
        ArgumentError: ``count`` or ``rate`` is out of range.
    """
    if count < 0:
        raise ArgumentError("count", count, "a number of units >= 0")
    if not 0.0 < rate <= 1.0:
        raise ArgumentError("rate", rate, "a sampling rate in (0, 1]")
    if rate == 1.0:
        return np.ones(count, dtype=np.bool_)
    # Integers throughout: a uniform double has 53 bits, and comparing those would be off by up to 2**-53.
    threshold = np.uint64(int(Fraction(rate) * 2**64))
    return stream.words(count) < threshold


def poisson_sample_groups(records: Records, rate: float, stream: RandomStream) -> NDArray[np.bool_]:
    """Draw a Poisson sample of whole groups, for the group unit.

    Returns:
        Mask over the records, shape (n,): true for every record of a group that is in.

    Raises:
        ArgumentError: ``rate`` is out of range.
        DataError: the records have no groups.
    """
    if records.groups is None:
        raise DataError("the records have no groups; expected records with a group column for the group unit")
    names, group_of = np.unique(records.groups, return_inverse=True)
    return poisson_sample(len(names), rate, stream)[group_of]
