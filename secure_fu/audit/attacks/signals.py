"""What an attack looks at: how sure a model is of a record's own label."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from secure_fu.errors import ArgumentError

__all__ = ["confidence", "log_probability"]


def confidence(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """The logit of the probability of the true label: phi = log p_y - log sum_{j != y} p_j (Carlini et al. 2022).

    Over many models trained with, or without, a record, phi is close to normal, which the loss is not. It is computed
    from the logits as z_y - log sum_{j != y} exp z_j, in float64: probabilities of well fitted records would round to
    1.

    Args:
        logits: finite, shape (..., n, classes), at least two classes.
        labels: class numbers, shape (n,).

    Returns:
        float64 of shape (..., n), larger for a model that is surer of the label.

    Raises:
        ArgumentError: the shapes do not fit, a logit is NaN or infinite, or a label is no class number.
    """
    array = np.asarray(logits, dtype=np.float64)
    truth = np.asarray(labels)
    if array.ndim < 2 or array.shape[-1] < 2:
        raise ArgumentError("logits", f"an array of shape {array.shape}", "shape (..., n, classes), 2 classes or more")
    if truth.shape != (array.shape[-2],) or truth.dtype.kind not in "iu":
        raise ArgumentError(
            "labels", f"{truth.dtype} of shape {truth.shape}", f"integers of shape ({array.shape[-2]},), one a record"
        )
    if not np.isfinite(array).all():
        raise ArgumentError("logits", "an array with NaN or infinite entries", "finite logits")
    if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < array.shape[-1]:
        raise ArgumentError("labels", f"up to {int(truth.max())}", f"class numbers from 0 to {array.shape[-1] - 1}")
    if len(truth) == 0:
        return np.zeros(array.shape[:-1])
    own = truth == np.arange(array.shape[-1])[:, None]  # (classes, n)
    own = np.broadcast_to(own.T, array.shape)
    result: NDArray[np.float64] = array[own].reshape(array.shape[:-1]) - special.logsumexp(
        np.where(own, -np.inf, array), axis=-1
    )
    return result


def log_probability(phi: ArrayLike) -> NDArray[np.float64]:
    """Log of the true label's probability, which is minus the cross-entropy loss, from phi; any shape."""
    result: NDArray[np.float64] = -np.logaddexp(0.0, -np.asarray(phi, dtype=np.float64))
    return result
