"""From the attacks of a membership audit to its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from secure_fu.audit.attack_result import AttackResult
from secure_fu.audit.attacks import ENOUGH_FOR_LIRA
from secure_fu.audit.detection import (
    auc_power,
    can_find_anything,
    detectable_auc,
    fewest_records,
    members_needed,
    top_count,
    top_test,
)
from secure_fu.audit.model_signals import TargetSignals
from secure_fu.audit.two_samples import TwoSampleTest
from secure_fu.audit.verdict import Outcome, Verdict
from secure_fu.privacy import Interval, auc, clopper_pearson, holm

__all__ = ["Learned", "membership_verdict", "what_was_learned"]

_TWO_SAMPLE_LEVEL: Final = 0.01
_POWER_TO_PASS: Final = 0.8
_POWER_STATED: Final = 0.95
_SKILL_TO_PASS: Final = 0.2  # of the way from chance to no error


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Whether the model knows more of the records than their classes' frequencies.

    Attributes:
        accuracy_members, accuracy_non_members: shares of records that are classified rightly.
        skill: Cohen's kappa on the group where it is larger: 0 is chance, 1 is no error.
        beyond_chance: whether the accuracy of one group is above chance with 95 % confidence.
    """

    accuracy_members: float
    accuracy_non_members: float
    skill: float
    beyond_chance: bool


def what_was_learned(members: TargetSignals, non_members: TargetSignals) -> Learned:
    """Accuracy against that of guesses with the same frequencies, on members and on non-members."""
    accuracies, skills, beyond = [], [], False
    for side in (members, non_members):
        right = int((side.predicted == side.labels).sum())
        accuracies.append(right / len(side.labels))
        chance = _chance(side)
        skills.append((accuracies[-1] - chance) / (1.0 - chance))
        beyond = beyond or clopper_pearson(right, len(side.labels), level=0.9).low > chance
    return Learned(
        accuracy_members=accuracies[0],
        accuracy_non_members=accuracies[1],
        skill=max(skills),
        beyond_chance=beyond,
    )


def membership_verdict(
    attacks: Mapping[str, AttackResult],
    *,
    chosen: str,
    level: float,
    margin: float,
    strong: bool,
    learned: Learned | None,
    distribution: TwoSampleTest | None,
) -> Verdict:
    """The verdict on one model.

    INVALID, in this order: so few records that even perfect separation would be chance; a model that classifies no
    better than guesses; members and non-members of different distributions (two-sample test at 1 %). LEAK: a rank test
    of an attack, or the test of the chosen attack's highest scores, rejects at 1 - ``level`` after Holm's correction
    over all of them. PASSED: nothing was found, every attack's area is within ``margin`` of 1/2 by a test of
    equivalence at 1 - ``level``, an area at the margin would have been found with a power of at least 0.8, the model
    has learned something worth hiding (kappa at least 0.2), and the attacks are strong. CANNOT_TELL: all else.

    Args:
        attacks: at least one, all on the same records.
        chosen: the attack whose figures are stated.
        level: of the whole verdict.
        margin: how far from 1/2 an area may be and still pass.
        strong: whether the attacks had enough shadow models, or come from somebody who answers for them.
        learned: None where the model is not known.
        distribution: None where it was not tested.
    """
    result = attacks[chosen]
    m, n = len(result.member_scores), len(result.non_member_scores)
    top_p, top_found = top_test(result.member_scores, result.non_member_scores)
    adjusted = holm({**{name: attack.p_value for name, attack in attacks.items()}, "top": top_p})
    strict = 1.0 - (1.0 - level) / len(adjusted)  # what Holm asks of the smallest p-value
    detectable = detectable_auc(members=m, non_members=n, power=_POWER_STATED, level=strict)
    power = auc_power(0.5 + margin, members=m, non_members=n, level=strict)
    figures: dict[str, float | None] = {
        "auc": result.auc.value,
        "level": level,
        "margin": margin,
        "power_at_margin": power,
        "detectable_auc": detectable,
        **{f"p_{name}": value for name, value in adjusted.items()},
        "accuracy_members": None if learned is None else learned.accuracy_members,
        "accuracy_non_members": None if learned is None else learned.accuracy_non_members,
        "skill": None if learned is None else learned.skill,
        "two_sample_p": None if distribution is None else distribution.p_value,
        "two_sample_auc": None if distribution is None else distribution.auc,
    }

    def verdict(outcome: Outcome, sentence: str) -> Verdict:
        return Verdict(outcome=outcome, sentence=sentence, figures=figures)

    if not can_find_anything(m, n, level=strict):
        return verdict(
            Outcome.INVALID,
            f"{m} members and {n} non-members are too few: even if an attack told all of them apart, that could be "
            f"chance. It takes at least {fewest_records(strict)} of each.",
        )
    if learned is not None and not learned.beyond_chance:
        return verdict(
            Outcome.INVALID,
            f"The model classifies no better than guesses ({learned.accuracy_members:.1%} of members, "
            f"{learned.accuracy_non_members:.1%} of non-members): what knows nothing gives nothing away.",
        )
    if distribution is not None and distribution.p_value <= _TWO_SAMPLE_LEVEL:
        return verdict(
            Outcome.INVALID,
            "Members and non-members are not drawn from one distribution, so an attack may tell the records apart and "
            f"not their membership ({distribution.sentence}).",
        )
    least = min(adjusted, key=adjusted.__getitem__)
    if adjusted[least] <= 1.0 - level:
        return verdict(Outcome.LEAK, _leak(attacks, chosen, least, adjusted[least], top_found))
    if np.ptp(np.concatenate([result.member_scores, result.non_member_scores])) == 0.0:
        return verdict(Outcome.CANNOT_TELL, "All scores are equal: they tell nothing of anybody.")
    limits = _no_area(m, n)
    if detectable is not None:
        found = f"an AUC of {detectable:.3f} would have been found with a power of {_POWER_STATED:.0%}"
        limits = f"With {m} members and {n} non-members {found}."
    within = all(_equivalent(attack, margin, level) for attack in attacks.values())
    known = learned is None or learned.skill >= _SKILL_TO_PASS
    if strong and known and within and power >= _POWER_TO_PASS:
        return verdict(
            Outcome.PASSED,
            f"No attack told members from non-members, and each area under the ROC curve is within {margin:g} of "
            f"chance; one of {0.5 + margin:g} would have been found with a power of {power:.0%}. {limits}",
        )
    return verdict(Outcome.CANNOT_TELL, f"Nothing was found. {limits} {_why_not(strong, known, power, margin, strict)}")


_NAMES: Final = {
    "loss": "by loss",
    "calibrated": "by calibrated loss",
    "rmia": "RMIA",
    "lira_online": "LiRA",
    "lira_offline": "offline LiRA",
    "scores": "this attack",
}


def _leak(attacks: Mapping[str, AttackResult], chosen: str, found_by: str, p_value: float, found: int) -> str:
    after = f"(p {p_value:.2g} after Holm's correction)"
    if found_by == "top":
        result = attacks[chosen]
        m, n = len(result.member_scores), len(result.non_member_scores)
        top = top_count(m + n)
        return (
            f"Of the {top} records with the highest scores of {_NAMES.get(chosen, chosen)}, {found} are members, where "
            f"chance would put {top * m / (m + n):.1f} {after}."
        )
    area = attacks[found_by].auc
    figures = f"AUC {area.value:.3f}, 95 % interval {area.low:.3f} to {area.high:.3f}"
    what = "The scores tell" if found_by == "scores" else f"The attack {_NAMES.get(found_by, found_by)} tells"
    if area.value < 0.5:
        why = "the model treats members worse" + (
            ", or the scores have the wrong sign (larger has to speak for membership)" if found_by == "scores" else ""
        )
        return f"{what} members from records that were never seen, because {why}: {figures} {after}."
    return f"{what} members from records that were never seen: {figures} {after}."


def _why_not(strong: bool, known: bool, power: float, margin: float, strict: float) -> str:
    if not strong:
        return f"To pass takes attacks with at least {ENOUGH_FOR_LIRA} shadow models: weaker ones miss too much."
    if not known:
        return "The model has learned so little that there is little to find."
    if power < _POWER_TO_PASS:
        needed = members_needed(margin, power=_POWER_TO_PASS, level=strict)
        return (
            f"To pass, an area of {0.5 + margin:g} would have to be found with a power of {_POWER_TO_PASS:.0%}: that "
            f"takes, for example, {needed} members and {needed} non-members."
        )
    return f"To pass, every area would have to be within {margin:g} of 1/2 beyond doubt."


def _no_area(members: int, non_members: int) -> str:
    return f"With {members} members and {non_members} non-members no area is found for certain."


def _equivalent(attack: AttackResult, margin: float, level: float) -> bool:
    """Two one-sided tests at 1 - level: the interval at 2 level - 1 lies within the margin."""
    interval: Interval = auc(attack.member_scores, attack.non_member_scores, level=2.0 * level - 1.0)
    return interval.low >= 0.5 - margin and interval.high <= 0.5 + margin


def _chance(side: TargetSignals) -> float:
    """How often guesses with the frequencies of the predictions are right; for one class, how often any is."""
    truth = np.bincount(side.labels, minlength=side.classes) / len(side.labels)
    if float(truth.max()) == 1.0:
        return 1.0 / side.classes
    guesses = np.bincount(side.predicted, minlength=side.classes) / len(side.predicted)
    return float(guesses @ truth)
