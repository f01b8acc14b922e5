"""What a request covers at each client, and how much that is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secure_fu.learning import Records
from secure_fu.privacy import Unit

__all__ = ["Marks", "count_units", "holders"]

Marks = Mapping[str, NDArray[np.bool_]]
"""What a request covers: for each client a mark of its records, shape (n,)."""


def holders(marks: Marks) -> tuple[list[str], list[str]]:
    """Clients that hold records to be forgotten, and clients that hold others."""
    return [name for name, mask in marks.items() if mask.any()], [
        name for name, mask in marks.items() if not mask.all()
    ]


def count_units(records: Records, mask: NDArray[np.bool_], unit: Unit) -> int:
    """How many privacy units the marked records of a client are."""
    if unit is Unit.CLIENT:
        return 1
    if unit is Unit.GROUP and records.groups is not None:
        return len(np.unique(records.groups[mask]))
    return int(mask.sum())
