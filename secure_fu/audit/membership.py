"""A first membership audit: does the model still treat forgotten records better than records that it never saw?

A loss-threshold attack (Yeom et al. 2018) on the forgotten records against held-out ones of the same distribution.
Weak on purpose of being cheap: an AUC near that of a retrained model is necessary for forgetting, and no proof of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, record_losses
from secure_fu.privacy import Interval, RocCurve, auc, roc_curve, true_positive_rate

__all__ = ["MembershipAudit", "membership_audit"]


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


def membership_audit(
    model: FlatModel, vector: NDArray[np.floating], *, members: Records, non_members: Records
) -> MembershipAudit:
    """Attack one model.

    Args:
        model: architecture.
        vector: its parameters, shape (d,).
        members: records whose membership is in question, such as those that were forgotten.
        non_members: records of the same distribution that never took part.

    Raises:
        ArgumentError: one of the two is empty.
    """
    for name, records in (("members", members), ("non_members", non_members)):
        if len(records) == 0:
            raise ArgumentError(name, "0 records", "at least one record")
    parameters = np.asarray(vector, dtype=np.float64)
    inside = -record_losses(model, parameters, members)
    outside = -record_losses(model, parameters, non_members)
    return MembershipAudit(
        auc=auc(inside, outside),
        tpr_at_1pct_fpr=true_positive_rate(inside, outside, false_positive_rate=0.01),
        roc=roc_curve(inside, outside),
        member_scores=inside,
        non_member_scores=outside,
    )
