"""A first membership audit: does the model still treat forgotten records better than records that it never saw?

A loss-threshold attack (Yeom et al. 2018) on the forgotten records against held-out ones of the same distribution.
Weak on purpose of being cheap: an AUC near that of a retrained model is necessary for forgetting, and no proof of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fu.errors import ArgumentError
from secure_fu.learning import Records
from secure_fu.privacy import Interval, RocCurve, auc, roc_curve, true_positive_rate

__all__ = ["MembershipAudit", "membership_audit"]

_BATCH: Final = 8192  # records; bounds the memory of activations


@dataclass(frozen=True, kw_only=True, eq=False)
class MembershipAudit:
    """How well the loss separates members from non-members.

    Attributes:
        auc: area under the ROC curve with its 95 % interval; 0.5 is chance.
        tpr_at_1pct_fpr: true positive rate at 1 % false positives; None where there are too few non-members.
        roc: the curve with its bands.
        member_scores, non_member_scores: minus the loss of each record.
    """

    auc: Interval
    tpr_at_1pct_fpr: Interval | None
    roc: RocCurve
    member_scores: NDArray[np.float64]
    non_member_scores: NDArray[np.float64]


def membership_audit(module: nn.Module, *, members: Records, non_members: Records) -> MembershipAudit:
    """Attack one model, trained here or elsewhere.

    Args:
        module: maps features (n, ...) to logits (n, classes); evaluated as it stands, in evaluation mode.
        members: records whose membership is in question, such as those that were forgotten.
        non_members: records of the same distribution that never took part.

    Raises:
        ArgumentError: one of the two is empty, or the module gives a loss that is not finite.
    """
    for name, records in (("members", members), ("non_members", non_members)):
        if len(records) == 0:
            raise ArgumentError(name, "0 records", "at least one record")
    frozen = copy.deepcopy(module).eval()
    inside, outside = _scores(frozen, members), _scores(frozen, non_members)
    return MembershipAudit(
        auc=auc(inside, outside),
        tpr_at_1pct_fpr=true_positive_rate(inside, outside, false_positive_rate=0.01),
        roc=roc_curve(inside, outside),
        member_scores=inside,
        non_member_scores=outside,
    )


def _scores(module: nn.Module, records: Records) -> NDArray[np.float64]:
    """Minus the cross-entropy loss of each record."""
    with torch.no_grad():
        logits = torch.cat([module(batch).to(torch.float64) for batch in torch.split(records.features, _BATCH)])
        losses = nn.functional.cross_entropy(logits, records.labels, reduction="none")
    scores: NDArray[np.float64] = -losses.numpy()
    return scores
