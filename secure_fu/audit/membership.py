"""The membership audit of one model: does it treat its members in another way than records that it never saw?

Without shadow models it looks at the loss alone (Yeom et al. 2018), which is cheap and weak. With shadow models,
trained as the target was, it asks what the target's answer to a record would be with and without that record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from secure_fu.audit.attack_result import AttackResult, attack_result
from secure_fu.audit.attacks import (
    ENOUGH_FOR_LIRA,
    calibrated_attack,
    choose_attack,
    confidence,
    lira_offline,
    lira_online,
    loss_attack,
    offline_scaling,
    rmia,
)
from secure_fu.audit.detection import rank_test
from secure_fu.audit.membership_verdict import membership_verdict, what_was_learned
from secure_fu.audit.model_signals import ShadowSignals, shadow_signals, shared_records, target_signals
from secure_fu.audit.shadows import ShadowModels
from secure_fu.audit.two_samples import FEWEST_RECORDS, TwoSampleTest, two_sample_test
from secure_fu.audit.verdict import Verdict
from secure_fu.errors import ArgumentError
from secure_fu.learning import Records
from secure_fu.privacy import Interval, RocCurve

__all__ = ["ExposedRecord", "MembershipAudit", "membership_audit", "scores_audit"]

_LISTED: Final = 20  # most exposed records
_UNLIKE: Final = 1e-4  # p-value at which shadow models know members and non-members differently


@dataclass(frozen=True, kw_only=True)
class ExposedRecord:
    """A member that the chosen attack is sure of.

    Attributes:
        record: its index among the members.
        score: of the chosen attack.
        false_positive_rate: share of non-members with at least its score.
    """

    record: int
    score: float
    false_positive_rate: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MembershipAudit:
    """How well attacks separate members from non-members, and what follows.

    Attributes:
        attacks: results by the attack's name: ``loss``, ``calibrated``, ``rmia``, ``lira_online``, ``lira_offline``, or
            ``scores`` where they came from elsewhere.
        chosen: the attack that was decided on before any score was seen, see
            :func:`~secure_fu.audit.attacks.choose_attack`. The figures of this object itself are its figures.
        shadows: number of shadow models.
        most_exposed: members with the highest scores of the chosen attack, highest first.
        distribution: the two-sample test of members and non-members; None where there are too few of them, or scores
            only.
        warnings: what to know before the figures are believed; whole sentences.
        verdict: LEAK, PASSED, CANNOT_TELL or INVALID, with its reason.
    """

    attacks: Mapping[str, AttackResult]
    chosen: str
    shadows: int
    most_exposed: tuple[ExposedRecord, ...]
    distribution: TwoSampleTest | None
    warnings: tuple[str, ...]
    verdict: Verdict

    @property
    def result(self) -> AttackResult:
        """The chosen attack's."""
        return self.attacks[self.chosen]

    @property
    def auc(self) -> Interval:
        """Area under the chosen attack's ROC curve with its 95 % interval; 0.5 is chance."""
        return self.result.auc

    @property
    def tpr_at_1pct_fpr(self) -> Interval | None:
        """True positive rate at 1 % false positives; None where there are too few non-members."""
        return self.result.tpr_at_1pct_fpr

    @property
    def tpr_at_01pct_fpr(self) -> Interval | None:
        """True positive rate at 0.1 % false positives; None where there are too few non-members."""
        return self.result.tpr_at_01pct_fpr

    @property
    def roc(self) -> RocCurve:
        """The chosen attack's curve with its bands."""
        return self.result.roc

    @property
    def member_scores(self) -> NDArray[np.float64]:
        """The chosen attack's scores of the members, in their order."""
        return self.result.member_scores

    @property
    def non_member_scores(self) -> NDArray[np.float64]:
        """The chosen attack's scores of the non-members, in their order."""
        return self.result.non_member_scores


def membership_audit(
    module: nn.Module,
    *,
    members: Records,
    non_members: Records,
    shadows: ShadowModels | None = None,
    level: float = 0.95,
    margin: float = 0.05,
) -> MembershipAudit:
    """Attack one model, trained here or elsewhere.

    Which shadow models know which of the audited records is looked up by the records' content. Either all of them are
    in the pool of the shadow models, so that the online attacks can be run, or none is.

    Args:
        module: maps features (n, ...) to logits (n, classes); evaluated as it stands, in evaluation mode.
        members: records whose membership is in question, such as those that were forgotten.
        non_members: records of the same distribution that never took part.
        shadows: models trained as the target was, on random halves of a pool of records; see
            :func:`~secure_fu.audit.shadow_models` and, for any training procedure,
            :func:`~secure_fu.audit.shadow_models_by`.
        level: of the verdict: without a leak it says LEAK with a chance of at most 1 - ``level``.
        margin: how far from 1/2 the area under the ROC curve may be to pass.

    Guarantee:
        If members and non-members are independent draws of one distribution, and the target is no function of which are
        which, the verdict is LEAK with a chance of at most 1 - ``level``, whatever the shadow models are worth.
        It needs shadow models that treat both groups alike: drawn without looking at who is a member.

    Raises:
        ArgumentError: one of the two groups is empty, the module gives logits that are not finite, the target is among
            its shadow models, or these do not suit the records; says how many it takes.
        DataError: the module does not fit the records.
    """
    for name, records in (("members", members), ("non_members", non_members)):
        if len(records) == 0:
            raise ArgumentError(name, "0 records", "at least one record")
    _check(level, margin)
    if members.shape != non_members.shape:
        raise ArgumentError("non_members", f"records of shape {non_members.shape}", f"shape {members.shape} as members")
    inside, outside = target_signals(module, members), target_signals(module, non_members)
    target = np.concatenate([inside.phi, outside.phi])
    scores = {"loss": loss_attack(target)}
    chosen, count, warnings = "loss", 0, []
    if shadows is not None:
        both = Records(
            torch.cat([members.features, non_members.features]), torch.cat([members.labels, non_members.labels])
        )
        signals = shadow_signals(shadows, both, target)
        online = _online(signals, len(members))
        scores |= _shadow_attacks(target, signals, shadows, non_members=len(non_members), online=online)
        count = len(signals.phi)
        chosen = choose_attack(count, online=online)
        if chosen not in scores:
            chosen = "rmia"
            warnings.append("A record has fewer than two shadow models on a side, so RMIA was run in place of LiRA.")
        if not online:
            warnings.append("Not every audited record was trained on by a shadow model: only offline attacks were run.")
    distribution = None
    if min(len(members), len(non_members)) >= FEWEST_RECORDS:
        distribution = two_sample_test(members, non_members)
    shared = shared_records(members, non_members)
    if shared:
        warnings.append(f"{shared} of {len(non_members)} non-members are, with the same label, members as well.")
    attacks = {
        name: attack_result(name, values[: len(members)], values[len(members) :]) for name, values in scores.items()
    }
    verdict = membership_verdict(
        attacks,
        chosen=chosen,
        level=level,
        margin=margin,
        strong=count >= ENOUGH_FOR_LIRA,
        learned=what_was_learned(inside, outside),
        distribution=distribution,
    )
    return _audit(attacks, chosen, count, distribution, warnings, verdict)


def scores_audit(
    member_scores: ArrayLike, non_member_scores: ArrayLike, *, level: float = 0.95, margin: float = 0.05
) -> MembershipAudit:
    """Judge the scores of an attack that was run elsewhere; see :func:`~secure_fu.audit.read_scores` for files.

    What the scores rest on cannot be checked from here: that both groups are of one distribution, that the model
    learned something, and that no threshold or attack was chosen by these same scores.

    Args:
        member_scores: one a member, finite, shape (m,), m >= 1; larger speaks for membership.
        non_member_scores: one a non-member, finite, shape (n,), n >= 1.
        level, margin: as for :func:`membership_audit`.

    Raises:
        ArgumentError: an array is empty, not one-dimensional or not finite.
    """
    _check(level, margin)
    attacks = {"scores": attack_result("scores", member_scores, non_member_scores)}
    verdict = membership_verdict(
        attacks, chosen="scores", level=level, margin=margin, strong=True, learned=None, distribution=None
    )
    warnings = ["Only scores were given: nobody checked that members and non-members are of one distribution."]
    return _audit(attacks, "scores", 0, None, warnings, verdict)


def _check(level: float, margin: float) -> None:
    if not 0.5 < level < 1.0:
        raise ArgumentError("level", level, "a number in (0.5, 1)")
    if not 0.0 < margin < 0.5:
        raise ArgumentError("margin", margin, "a number in (0, 0.5)")


def _audit(
    attacks: Mapping[str, AttackResult],
    chosen: str,
    shadows: int,
    distribution: TwoSampleTest | None,
    warnings: list[str],
    verdict: Verdict,
) -> MembershipAudit:
    result = attacks[chosen]
    outside = np.sort(result.non_member_scores)
    highest = np.argsort(-result.member_scores, kind="stable")[:_LISTED]
    exposed = tuple(
        ExposedRecord(
            record=int(index),
            score=float(result.member_scores[index]),
            false_positive_rate=1.0 - float(np.searchsorted(outside, result.member_scores[index])) / len(outside),
        )
        for index in highest
    )
    return MembershipAudit(
        attacks=dict(attacks),
        chosen=chosen,
        shadows=shadows,
        most_exposed=exposed,
        distribution=distribution,
        warnings=tuple(warnings),
        verdict=verdict,
    )


def _online(signals: ShadowSignals, members: int) -> bool:
    """Whether the shadow models know the audited records; refuses those that know one group better than the other."""
    known = int(signals.known.sum())
    if 0 < known < len(signals.known):
        raise ArgumentError(
            "shadows",
            f"models whose pool has {known} of the {len(signals.known)} audited records",
            "a pool that has all of them, or none",
        )
    counts = signals.members.sum(axis=0)
    if int(counts.max()) == len(signals.phi):
        raise ArgumentError(
            "shadows",
            "models that were all trained on one of the audited records",
            "models of which some were trained without each of them; balanced halves, two models or more, will do",
        )
    if rank_test(counts[:members], counts[members:]) < _UNLIKE:
        raise ArgumentError(
            "shadows",
            "models that were trained on members more often than on non-members, or less",
            "models whose training records were drawn without looking at who is a member; of complementary pairs, take "
            "out both models or none",
        )
    return int(counts.min()) > 0


def _shadow_attacks(
    target: NDArray[np.float64], signals: ShadowSignals, shadows: ShadowModels, *, non_members: int, online: bool
) -> dict[str, NDArray[np.float64]]:
    """Scores by attack: members first, then non-members. Attacks that these models are too few for are left out."""
    population = np.arange(len(target)) >= len(target) - non_members
    arrays = (target, signals.phi, signals.members)
    scaling = None
    if not online:
        scaling = offline_scaling(_pool_phi(shadows), shadows.members)
    scores = {
        "calibrated": calibrated_attack(*arrays),
        "rmia": rmia(*arrays, population=population, scaling=scaling),
    }
    counts = signals.members.sum(axis=0)
    enough_out = int(counts.max()) <= len(signals.phi) - 2
    if online and enough_out and int(counts.min()) >= 2:
        scores["lira_online"] = lira_online(*arrays)
    elif not online and enough_out:
        scores["lira_offline"] = lira_offline(*arrays)
    return scores


def _pool_phi(shadows: ShadowModels) -> NDArray[np.float64]:
    return confidence(shadows.logits(), shadows.records.labels.numpy())
