"""What a client that leaves can find out by itself, before it wipes its records: did the deletion reach them?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from secure_fu.audit.membership import MembershipAudit, membership_audit
from secure_fu.audit.verdict import Outcome, Verdict
from secure_fu.errors import ArgumentError
from secure_fu.learning import Records
from secure_fu.privacy import Interval, mean_interval

__all__ = ["OwnAudit", "own_audit"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnAudit:
    """One client's own look at one deletion.

    Attributes:
        before, after: the loss attack on the client's records, on the models before and after the deletion.
        drop: how much less sure the model after is of the forgotten records, in nats of log-likelihood, over what it
            lost on the reference records; with its 95 % interval over records.
        verdict: LEAK where the model after still treats the records in another way than the reference. Never PASSED:
            one model cannot show that data was forgotten, and retraining is not at hand.
    """

    before: MembershipAudit
    after: MembershipAudit
    drop: Interval
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The figures, without a score of any record."""
        return {
            "before": self.before.auc.to_json(),
            "after": self.after.auc.to_json(),
            "drop": self.drop.to_json(),
            "forgotten": len(self.after.member_scores),
            "reference": len(self.after.non_member_scores),
            "verdict": self.verdict.to_json(),
        }


def own_audit(
    before: nn.Module, after: nn.Module, *, forgotten: Records, reference: Records, level: float = 0.95
) -> OwnAudit:
    """Compare how two released models treat the client's records; runs at the client, on what it alone has.

    Args:
        before: the model that knew the records.
        after: the model that the deletion ended in.
        forgotten: the client's records that were to be forgotten; two at least.
        reference: records of the same distribution that never took part; two at least. Without such records of its
            own, a client can hold some back from training.
        level: of the verdict.

    Raises:
        ArgumentError: an argument does not fit; says how.
        DataError: a module does not fit the records.
    """
    for name, records in (("forgotten", forgotten), ("reference", reference)):
        if len(records) < 2:
            raise ArgumentError(name, f"{len(records)} records", "at least two")
    first = membership_audit(before, members=forgotten, non_members=reference, level=level)
    last = membership_audit(after, members=forgotten, non_members=reference, level=level)
    return OwnAudit(before=first, after=last, drop=_drop(first, last), verdict=_verdict(first, last))


def _drop(before: MembershipAudit, after: MembershipAudit) -> Interval:
    """Mean fall of the forgotten records' scores over that of the reference, Welch's interval by parts."""
    lost = mean_interval(before.member_scores - after.member_scores)
    elsewhere = mean_interval(before.non_member_scores - after.non_member_scores)
    value = lost.value - elsewhere.value
    margin = float(np.hypot(lost.high - lost.value, elsewhere.high - elsewhere.value))
    return Interval(value=value, low=value - margin, high=value + margin)


def _verdict(before: MembershipAudit, after: MembershipAudit) -> Verdict:
    areas = f"AUC {before.auc.value:.2f} before and {after.auc.value:.2f} after"
    figures = {"auc_before": before.auc.value, "auc_after": after.auc.value}
    if after.verdict.outcome is Outcome.INVALID:
        return Verdict(outcome=Outcome.INVALID, sentence=after.verdict.sentence, figures=figures)
    if after.verdict.outcome is Outcome.LEAK:
        sentence = (
            f"The model after the deletion still treats your records in another way than records that it never saw "
            f"({areas}). A model that was retrained without them may do so too, if they are unlike the reference."
        )
        return Verdict(outcome=Outcome.LEAK, sentence=sentence, figures=figures)
    seen = before.verdict.outcome is Outcome.LEAK
    sentence = (
        f"The model before told your records from others, the model after does not ({areas}). That is necessary for "
        "forgetting, and no proof: a stronger attack, or both models together, may tell more."
        if seen
        else f"Neither model tells your records from others by its loss ({areas}): this look cannot show whether they "
        "were forgotten."
    )
    return Verdict(outcome=Outcome.CANNOT_TELL, sentence=sentence, figures=figures)
