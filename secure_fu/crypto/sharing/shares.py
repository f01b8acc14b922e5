"""Packed Shamir sharing: t members of the committee open a sum of keys, and f of them learn nothing of any key.

A key of N small integers is cut into pieces of ``packing`` = t - f coefficients, and zeros fill the last piece up. For
piece i there is a polynomial over GF(65521) of degree below t: at x = -(j + 1), for j < packing, it takes the value of
coefficient ``i * packing + j``, and at x = 1 .. f uniformly random values. The share of the member at position k of the
header's committee, counted from 0, is the values of all polynomials at x = k + 1. (So the random values are the shares
of the first f members. That sets nobody apart: any f members' shares are uniform.) This is the sharing of Franklin and
Yung, STOC 1992; with ``packing`` 1 it is Shamir's of 1979.

Sharing is linear: the sum of a member's shares over some clients is its share of the sum of their keys.

Guarantee
    The shares of any f members are uniform and independent of the key: exactly, not computationally. Any t members'
    shares determine it. :func:`recover_key` returns no key but one that the caller's own check accepted, whatever the
    answers are; wrong answers cost time, and beyond what it tolerates they prevent the opening.
Assumes
    The stream is uniform, and its words serve this key alone. Who answers is for the caller to authenticate. f + 1 to
    t - 1 members together learn part of the key. Where f = 0, single shares show parts of it; the share of a committee
    of one is the key.
Not protected
    Nothing shows before the answers come that a client sent shares that lie on no polynomials, or on those of another
    key than it encrypted under. Wrong shares to more members than can be left out prevent the opening for everybody,
    and it does not show whose they were.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto._secret import Secret
from secure_fu.crypto.randomness import RandomStream
from secure_fu.crypto.sharing._field import (
    FIELD_PRIME,
    LARGEST_LIFTED,
    Elements,
    check_elements,
    lagrange,
    uniform_elements,
)
from secure_fu.crypto.sharing.terms import CommitteeTerms, member_points, random_points, secret_points
from secure_fu.errors import ArgumentError, CiphertextError, WireError

__all__ = ["ShareSum", "decode_share", "encode_share", "share_key"]


@functools.lru_cache(maxsize=4)
def _sharing_matrix(terms: CommitteeTerms) -> Elements:
    """Return what takes a polynomial's packed and random values, in this order, to the shares: shape (m, t)."""
    fixed = np.concatenate([secret_points(terms), random_points(terms)])
    matrix: Elements = lagrange(fixed, member_points(terms))[0]
    matrix.setflags(write=False)
    return matrix


def share_key(key: NDArray[np.int64], terms: CommitteeTerms, *, stream: RandomStream) -> NDArray[np.uint16]:
    """Share a key among the committee, as the module says.

    Args:
        key: shape (N,), int64, each coefficient at most (p - 1) / 2 = 32760 in absolute value. Secret.
        terms: the committee's terms.
        stream: where the random values come from; fresh and secret.

    Returns:
        shape (m, ceil(N / packing)), uint16: row k is for member k and nobody else.

    Raises:
        ArgumentError: ``key`` is of another shape, type or range.
    """
    if key.ndim != 1 or key.dtype != np.int64 or not key.size:
        raise ArgumentError("key", f"{key.dtype} of shape {key.shape}", "int64 of shape (N,), with N at least 1")
    if key.min() < -LARGEST_LIFTED or key.max() > LARGEST_LIFTED:
        raise ArgumentError("key", "out of range", f"coefficients from {-LARGEST_LIFTED} to {LARGEST_LIFTED}")
    polynomials = terms.share_length(key.size)
    padded = np.zeros(polynomials * terms.packing, dtype=np.int64)
    padded[: key.size] = key
    packed = padded.reshape(polynomials, terms.packing).T
    random = uniform_elements(terms.corrupt * polynomials, stream=stream).reshape(terms.corrupt, polynomials)
    shares: Elements = _sharing_matrix(terms) @ np.concatenate([packed, random]) % FIELD_PRIME
    return shares.astype(np.uint16)


def encode_share(share: NDArray[np.uint16]) -> bytes:
    """Return the one encoding of a share, or of a sum of shares: two bytes an element, little-endian.

    Raises:
        ArgumentError: ``share`` is not uint16 of shape (length,), or has a value that is not below p.
    """
    check_elements("share", share, length=share.size)
    return share.astype("<u2", copy=False).tobytes()


def decode_share(data: bytes, *, terms: CommitteeTerms, degree: int) -> NDArray[np.uint16]:
    """Return the share of a key of ``degree`` coefficients whose encoding is ``data``: uint16, shape (length,).

    Raises:
        ArgumentError: ``degree`` is not an int of at least 1.
        WireError: ``data`` has another length, or a value that is not below p.
    """
    expected = terms.share_bytes(degree)
    if len(data) != expected:
        raise WireError(f"a share is {len(data)} bytes, not {expected}")
    share = np.frombuffer(data, dtype="<u2").astype(np.uint16)
    if int(share.max()) >= FIELD_PRIME:
        raise WireError(f"a share has a value that is not below {FIELD_PRIME}")
    return share


class ShareSum(Secret):
    """The running sum of one member's shares: that member's share of the sum of the keys.

    Its memory does not depend on how many are added.

    Args:
        terms: the committee's terms.
        degree: N, the number of coefficients of a key.
    """

    __slots__ = ("_count", "_sum")

    def __init__(self, terms: CommitteeTerms, *, degree: int) -> None:
        # 64 bits hold the sum of 2^48 shares: nothing has to be reduced on the way.
        self._sum = np.zeros(terms.share_length(degree), dtype=np.uint64)
        self._count = 0

    @property
    def count(self) -> int:
        """How many shares the sum holds."""
        return self._count

    def add(self, share: NDArray[np.uint16]) -> None:
        """Add a decoded share.

        Raises:
            ArgumentError: it is not uint16 of the length for this degree, with values below p; the sum is unchanged.
        """
        check_elements("share", share, length=self._sum.size)
        self._sum += share
        self._count += 1

    def total(self) -> NDArray[np.uint16]:
        """Return the sum modulo p: uint16, shape (length,).

        Raises:
            CiphertextError: nothing was added.
        """
        if not self._count:
            raise CiphertextError("the sum is empty: add at least one share")
        return (self._sum % FIELD_PRIME).astype(np.uint16)
