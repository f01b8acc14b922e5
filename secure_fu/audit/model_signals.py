"""What a target and its shadow models say about the audited records."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fu.audit._content import content_digests
from secure_fu.audit.attacks import confidence
from secure_fu.audit.shadows import ShadowModels
from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import Records

__all__ = ["ShadowSignals", "TargetSignals", "shadow_signals", "shared_records", "target_signals"]

_BATCH: Final = 8192  # records; bounds the memory of activations
_SHADOW_BATCH: Final = 2048
_EQUAL: Final = 1e-5  # of phi, relative; two trainings never come so close on every record


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetSignals:
    """Of one model on n records.

    Attributes:
        phi: see :func:`~secure_fu.audit.attacks.confidence`, shape (n,).
        predicted: the class with the largest logit, shape (n,).
        labels: the true class, shape (n,).
        classes: number of logits.
    """

    phi: NDArray[np.float64]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowSignals:
    """Of S shadow models on n records.

    Attributes:
        phi: shape (S, n).
        members: bool, shape (S, n): where a model was trained on a record, or on a copy of it.
        known: bool, shape (n,): whether a record is in the pool of the shadow models at all.
    """

    phi: NDArray[np.float64]
    members: NDArray[np.bool_]
    known: NDArray[np.bool_]


def target_signals(module: nn.Module, records: Records) -> TargetSignals:
    """Run a copy of a module, in evaluation mode, on records.

    Raises:
        DataError: the module cannot take the records, or its output does not fit their labels.
        ArgumentError: a logit is NaN or infinite.
    """
    frozen = copy.deepcopy(module).eval()
    parts: list[Tensor] = []
    try:
        with torch.no_grad():
            for batch in torch.split(records.features, _BATCH):
                parts.append(frozen(batch).detach().to(torch.float64).cpu())
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"the model cannot take records of shape {records.shape} ({type(error).__name__}); expected a module from "
            "float32 features (n, ...) to logits (n, classes)"
        ) from error
    logits = torch.cat(parts).numpy()
    labels = records.labels.numpy()
    if logits.ndim != 2 or logits.shape[0] != len(labels) or logits.shape[1] <= max(1, int(labels.max())):
        raise DataError(
            f"the model gives an output of shape {logits.shape} for {len(labels)} records with labels up to "
            f"{int(labels.max())}; expected logits of shape (n, classes), a class for each label and at least two"
        )
    if not np.isfinite(logits).all():
        raise ArgumentError("module", "a model with NaN or infinite logits", "one whose logits are finite")
    return TargetSignals(
        phi=confidence(logits, labels), predicted=logits.argmax(axis=1), labels=labels, classes=logits.shape[1]
    )


def shadow_signals(shadows: ShadowModels, records: Records, target: NDArray[np.float64]) -> ShadowSignals:
    """Run the shadow models on records, and look up by content which of them were trained on which.

    Args:
        shadows: the models and their pool.
        records: what is audited, n of them.
        target: phi of the target on the records, shape (n,).

    Raises:
        ArgumentError: one of the shadow models answers as the target does: it is the target, or a copy of it.
    """
    # Split by records: the logits of many models on all records at once can outgrow the memory.
    phi = np.concatenate(
        [
            confidence(shadows.logits(records.subset(part)), records.labels.numpy()[part])
            for part in _slices(len(records), _SHADOW_BATCH)
        ],
        axis=1,
    )
    if not np.isfinite(phi).all():
        raise ArgumentError("shadows", "models with NaN or infinite logits", "models whose logits are finite")
    scale = max(1.0, float(np.abs(target).max()))
    same = np.flatnonzero(np.abs(phi - target).max(axis=1) <= _EQUAL * scale)
    if len(same):
        raise ArgumentError(
            "shadows", f"a set whose model {int(same[0])} is the target", "shadow models that the target is not among"
        )
    places: dict[bytes, list[int]] = {}
    for index, name in enumerate(content_digests(shadows.records)):
        places.setdefault(name, []).append(index)
    members = np.zeros(phi.shape, dtype=np.bool_)
    known = np.zeros(len(records), dtype=np.bool_)
    for index, name in enumerate(content_digests(records)):
        if name in places:
            known[index] = True
            copies = shadows.members[:, places[name]]
            # A copy that every model was trained on tells no model from another; where there are others, they count.
            divided = copies[:, ~copies.all(axis=0)]
            members[:, index] = (divided if divided.shape[1] else copies).any(axis=1)
    return ShadowSignals(phi=phi, members=members, known=known)


def shared_records(first: Records, second: Records) -> int:
    """How many records of the second group are, with their labels, among the first as well."""
    names = set(content_digests(first))
    return sum(name in names for name in content_digests(second))


def _slices(count: int, step: int) -> list[slice]:
    return [slice(low, min(low + step, count)) for low in range(0, count, step)]
