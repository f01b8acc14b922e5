"""Measures of a model on records: always in evaluation mode, in batches, without gradients.

These read records without any noise. Only a client about its own records, or a simulation's evaluator, may call them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fu.errors import DataError
from secure_fu.learning.flat import FlatModel
from secure_fu.learning.losses import Loss, checked_losses, cross_entropy
from secure_fu.learning.records import Records

__all__ = ["accuracy", "logits", "mean_loss", "module_accuracy", "predictions", "record_losses"]

_BATCH: Final = 8192  # records; bounds the memory of activations


def logits(model: FlatModel, vector: NDArray[np.float64], records: Records) -> NDArray[np.float64]:
    """Logits of every record: float64, shape (n, classes), computed in the module's own dtype.

    Raises:
        DataError: there are no records.
        ArgumentError: the vector does not fit the model.
    """
    tensors = model.tensors(vector)
    dtype = next(iter(tensors.values())).dtype
    return _in_batches(lambda batch: model.logits(tensors, batch.to(dtype)), records)


def predictions(model: FlatModel, vector: NDArray[np.float64], records: Records) -> NDArray[np.int64]:
    """The class with the largest logit, shape (n,). Raises as :func:`logits`."""
    return np.asarray(logits(model, vector, records).argmax(axis=1))


def accuracy(model: FlatModel, vector: NDArray[np.float64], records: Records) -> float:
    """Share of records whose largest logit is their label's, in [0, 1]. Raises as :func:`logits`."""
    return float(np.mean(predictions(model, vector, records) == records.labels.numpy()))


def module_accuracy(module: nn.Module, records: Records) -> float:
    """:func:`accuracy` of a module as it stands, whoever trained it; evaluated in its evaluation mode, left as it is.

    Args:
        module: maps features (n, ...) to logits (n, classes), in the dtype of its first floating point parameter.

    Raises:
        DataError: there are no records.
    """
    frozen = copy.deepcopy(module).eval()
    floating = (parameter.dtype for parameter in frozen.parameters() if parameter.is_floating_point())
    dtype = next(floating, records.features.dtype)
    scores = _in_batches(lambda batch: frozen(batch.to(dtype)), records)
    return float(np.mean(scores.argmax(axis=1) == records.labels.numpy()))


def _in_batches(forward: Callable[[Tensor], Tensor], records: Records) -> NDArray[np.float64]:
    if len(records) == 0:
        raise DataError("there are no records to evaluate on; expected at least one")
    with torch.no_grad():
        parts = [forward(batch).to(torch.float64) for batch in torch.split(records.features, _BATCH)]
    result: NDArray[np.float64] = torch.cat(parts).numpy()
    return result


def record_losses(
    model: FlatModel, vector: NDArray[np.float64], records: Records, *, loss: Loss = cross_entropy
) -> NDArray[np.float64]:
    """The loss of every record: float64, shape (n,). Raises as :func:`logits`."""
    scores = torch.from_numpy(logits(model, vector, records))
    result: NDArray[np.float64] = checked_losses(loss, scores, records.labels).numpy()
    return result


def mean_loss(model: FlatModel, vector: NDArray[np.float64], records: Records, *, loss: Loss = cross_entropy) -> float:
    """Mean of :func:`record_losses`."""
    return float(record_losses(model, vector, records, loss=loss).mean())
