"""Which of several members' answers lie on polynomials, and which do not: interleaved Reed-Solomon codes.

There is a row for each of r evaluation points and a column for each polynomial. A wrong answer spoils its row, in any
of the columns. Let S = H Y be the syndromes (H is of :func:`~._field.parity_checks`), R = r - dimension
their number in a column, E the set of wrong rows and F the errors. lambda, of degree D, annihilates a column if

    sum over k of lambda_k S[i + k]  =  sum over l in E of v_l F_l x_l^i lambda(x_l)  =  0    for all i < R - D

(Peterson 1960). While |E| <= D, the locator of E is among those that annihilate all columns, so their common zeros lie
within E. They are all of E
    with D = R // 2, if |E| <= R // 2, whatever the errors: no column has more than R - D of them, and that many of the
        vectors (x_l^i for i < R - D) are independent;
    with D = R - 1, if |E| <= R - 1 and the errors of the wrong rows are linearly independent (Metzner and Kapturowski
        1990). Those of members that do not plan them together are, but for a chance of about 1 / p, if there are as
        many columns as wrong rows;
    with D = R c // (c + 1), for c columns that hold errors, if |E| <= D and the errors are not planned, with about the
        same chance (Bleichenbacher, Kiayias and Yung, ICALP 2003). For c >= R - 1 this is the case before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto.sharing._field import FIELD_PRIME, Elements, evaluation_matrix, null_space, parity_checks

__all__ = ["is_consistent", "locate_surely", "locate_unplanned", "subsets", "wrong_columns"]

# Columns are taken in portions for which an elimination takes some milliseconds.
_ELIMINATION_STEPS = 1 << 22


def _syndromes(points: Elements, words: Elements, dimension: int) -> Elements:
    """Return H Y, shape (r - dimension, columns), of ``words``, shape (r, columns): zero where a column is right."""
    return parity_checks(points, dimension) @ words % FIELD_PRIME


def wrong_columns(points: Elements, words: Elements, dimension: int) -> NDArray[np.intp]:
    """Return which columns do not hold values of a polynomial of a degree below ``dimension``."""
    return np.flatnonzero(_syndromes(points, words, dimension).any(axis=0))


def is_consistent(points: Elements, words: Elements, dimension: int) -> bool:
    """Whether every column holds values of a polynomial of a degree below ``dimension``."""
    return not wrong_columns(points, words, dimension).size


def locate_surely(points: Elements, words: Elements, dimension: int) -> tuple[int, ...] | None:
    """Return the wrong rows if there are at most (r - dimension) // 2, and ``None`` if there are more."""
    most = (points.size - dimension) // 2
    found = _locate(points, words, dimension, lambda spare, columns: spare // 2)
    return None if found is None or len(found) > most else found


def locate_unplanned(points: Elements, words: Elements, dimension: int) -> tuple[int, ...] | None:
    """Return rows without which the rest is consistent, with more than ``dimension`` rows left, or ``None``.

    They are the wrong ones under the conditions that the module states for unplanned errors.
    """
    return _locate(points, words, dimension, lambda spare, columns: spare * columns // (columns + 1))


def _locate(
    points: Elements, words: Elements, dimension: int, degree_for: Callable[[int, int], int]
) -> tuple[int, ...] | None:
    kept = np.arange(points.size)
    while True:
        found = _syndromes(points[kept], words[kept], dimension)
        wrong = np.flatnonzero(found.any(axis=0))
        if not wrong.size:
            return tuple(int(row) for row in np.setdiff1d(np.arange(points.size), kept))
        spare = kept.size - dimension
        degree = degree_for(spare, wrong.size)
        if degree < 1:
            return None
        # A column has spare - degree equations; a few more than there are unknowns make a full rank likely.
        equations = spare - degree
        portion = max(_ELIMINATION_STEPS // (equations * (degree + 1) ** 2), -(-spare // equations) + 4)
        zeros = _common_zeros(points[kept], found[:, wrong[:portion]], degree)
        if not zeros.size:
            return None
        # What these rows hide may be found in the other columns, with that much less to find.
        kept = np.delete(kept, zeros)


def _common_zeros(points: Elements, found: Elements, degree: int) -> NDArray[np.intp]:
    """Return where all polynomials of degree <= ``degree`` that annihilate the syndromes ``found`` are zero."""
    windows = np.lib.stride_tricks.sliding_window_view(found, degree + 1, axis=0)
    annihilators = null_space(windows.reshape(-1, degree + 1))
    if not annihilators.size:
        return np.empty(0, dtype=np.intp)
    values = evaluation_matrix(points, degree + 1) @ annihilators % FIELD_PRIME
    return np.flatnonzero(~values.any(axis=1))


def subsets(count: int, size: int, portion: int) -> Iterator[NDArray[np.bool_]]:
    """Yield masks, shape (at most ``portion``, count), of what is left when ``size`` of ``count`` are left out."""
    chosen = combinations(range(count), size)
    while some := list(islice(chosen, portion)):
        kept = np.ones((len(some), count), dtype=np.bool_)
        np.put_along_axis(kept, np.array(some), False, axis=1)
        yield kept
