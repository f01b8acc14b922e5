"""Is the forgotten data still a member? Attacks that see the unlearned model alone, against retraining.

In each run the forgotten units are set against units that were never seen. Parts are drawn at random, so whatever has
forgotten exactly gives an expected area of 1/2. A method is judged by its gap to the retrained models of the same
runs, in both directions: data that a method has overdone show as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.areas import areas, learned_areas, unit_means
from secure_fu.audit.deletion.figures import Comparison, compared
from secure_fu.audit.deletion.likelihood import Parted

__all__ = ["LIKELIHOOD", "LOSS", "likelihood_attack", "loss_attack"]

LIKELIHOOD = "likelihood ratio"
LOSS = "loss"


def likelihood_attack(
    method: NDArray[np.float64], retrained: NDArray[np.float64], parted: Parted, *, margin: float, level: float
) -> Comparison:
    """U-LiRA (Hayes et al. 2024, arXiv 2403.01218): a likelihood ratio for each unit, learned on the other runs.

    The attack is learned against the method and scores both the method's model and the retrained one of the run that
    it has not seen, so the two areas differ by what the method left behind. It finds both directions: data of which
    the model is less sure than of data never seen give an area above 1/2, too.

    Args:
        method: phi of each target record under the method's models, (R, t).
        retrained: the same under the retrained models, (R, t).
        parted: forgotten inside, never seen outside.
    """
    of_method, of_retrained = learned_areas(method, parted, [method, retrained])
    return compared(LIKELIHOOD, of_method, of_retrained, margin=margin, level=level)


def loss_attack(
    method: NDArray[np.float64], retrained: NDArray[np.float64], parted: Parted, *, margin: float, level: float
) -> Comparison:
    """The loss itself as the score (Yeom et al. 2018), averaged over a unit's records. Nothing is learned.

    An area below retraining's says that the method has overdone it.

    Args:
        method: losses of each target record under the method's models, (R, t).
        retrained: the same under the retrained models, (R, t).
        parted: forgotten inside, never seen outside.
    """
    values = [areas(-unit_means(losses, parted.units), parted) for losses in (method, retrained)]
    return compared(LOSS, values[0], values[1], margin=margin, level=level)
