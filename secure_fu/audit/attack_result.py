"""One attack's scores and what they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secure_fu.audit.detection import non_members_needed, rank_test
from secure_fu.errors import ArgumentError
from secure_fu.privacy import Interval, RocCurve, auc, roc_curve, true_positive_rate

__all__ = ["AttackResult", "attack_result"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackResult:
    """How well one attack separates members from non-members.

    Attributes:
        name: of the attack.
        auc: area under the ROC curve with its 95 % interval; 0.5 is chance.
        tpr_at_1pct_fpr, tpr_at_01pct_fpr: true positive rate at 1 % and at 0.1 % false positives, with its 95 %
            interval; None where fewer than ten false positives are expected, which is below 1,000 and 10,000
            non-members.
        roc: the curve with its pointwise bands.
        p_value: two-sided, of the hypothesis that membership leaves no mark on the scores; not corrected.
        member_scores, non_member_scores: one a record, in the order of the records; larger speaks for membership.
    """

    name: str
    auc: Interval
    tpr_at_1pct_fpr: Interval | None
    tpr_at_01pct_fpr: Interval | None
    roc: RocCurve
    p_value: float
    member_scores: NDArray[np.float64]
    non_member_scores: NDArray[np.float64]

    def true_positive_rate(self, false_positive_rate: float) -> Interval:
        """The true positive rate at any false positive rate, with its 95 % interval.

        Raises:
            ArgumentError: the rate is out of range, or there are too few non-members for it; says how many it takes.
        """
        found = true_positive_rate(self.member_scores, self.non_member_scores, false_positive_rate=false_positive_rate)
        if found is None:
            raise ArgumentError(
                "false_positive_rate",
                false_positive_rate,
                f"a rate for which {len(self.non_member_scores)} non-members are enough; this one takes "
                f"{non_members_needed(false_positive_rate)}",
            )
        return found


def attack_result(name: str, member_scores: ArrayLike, non_member_scores: ArrayLike) -> AttackResult:
    """Figures of one attack.

    Args:
        name: of the attack.
        member_scores: finite, shape (m,), m >= 1.
        non_member_scores: finite, shape (n,), n >= 1.

    Raises:
        ArgumentError: an empty, non-finite or not one-dimensional array.
    """
    inside, outside = np.asarray(member_scores, dtype=np.float64), np.asarray(non_member_scores, dtype=np.float64)
    return AttackResult(
        name=name,
        auc=auc(inside, outside),
        tpr_at_1pct_fpr=true_positive_rate(inside, outside, false_positive_rate=0.01),
        tpr_at_01pct_fpr=true_positive_rate(inside, outside, false_positive_rate=0.001),
        roc=roc_curve(inside, outside),
        p_value=rank_test(inside, outside),
        member_scores=inside,
        non_member_scores=outside,
    )
