"""The loss alone: a record that a model fits well is called a member (Yeom et al. 2018, arXiv 1709.01604)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secure_fu.audit.attacks.signals import log_probability

__all__ = ["loss_attack"]


def loss_attack(target: ArrayLike) -> NDArray[np.float64]:
    """Minus the cross-entropy loss of each record, from phi of the target model, shape (n,).

    It takes easy records for members and misses members that are hard, so it finds little at low false positive rates.
    """
    return log_probability(target)
