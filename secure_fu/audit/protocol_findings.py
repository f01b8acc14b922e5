"""What the tests of a protocol's audit say in words: one verdict a question, and one of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scipy.special import ndtri

from secure_fu.audit.contributions import ContributionTest
from secure_fu.audit.registration import Registration
from secure_fu.audit.verdict import Outcome, Verdict, worst
from secure_fu.privacy.lower_bounds import EpsilonBound
from secure_fu.privacy.noise_variance import VarianceTest

__all__ = ["Claim", "claim_finding", "contributions_finding", "noise_finding", "rounds_finding", "together"]

_POWER_QUANTILE: Final = 2.326  # a fault is called visible if it is found with probability 0.99
_VISIBLE_SHARE: Final = 0.5  # of the noise's variance: an audit that could not see half of it missing cannot tell
_VISIBLE_CLAIM: Final = 0.25  # the claim is put to the test if a quarter of it could be shown
_ACCOUNTING_SLACK: Final = 0.01  # relative; privacy loss distributions are rounded up on a grid


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the ledger says that a canary's unit has paid.

    Attributes:
        epsilon, delta: of all rounds with canaries.
        recomputed: epsilon from the signed headers by another accountant (privacy loss distributions), which is never
            above a right claim by more than its grid; None if it was not recomputed.
    """

    epsilon: float
    delta: float
    recomputed: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """As ``audit.json`` carries it."""
        return {
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "delta": self.delta,
            "recomputed": self.recomputed,
        }


def _visible_deficit(values: int, alarm: float) -> float:
    """The least share of the noise's variance whose absence is found with probability 0.99."""
    spread = math.sqrt(2.0 / values)
    return min(1.0, (float(ndtri(1.0 - alarm)) + _POWER_QUANTILE) * spread)


def noise_finding(zero_round: VarianceTest, required: VarianceTest, uploads: int, share: float) -> Verdict:
    """Is all noise in the zero rounds, and as much as privacy needs? `share` is the chance of a false alarm."""
    alarm = share / 3.0
    ratio, needed = zero_round.ratio.value, required.ratio.value
    visible = _visible_deficit(zero_round.values, alarm)
    figures = {
        "ratio": ratio,
        "ratio_required": needed,
        "visible_variance_deficit": visible,
        "uploads": float(uploads),
    }
    if required.p_too_small <= alarm:
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=(
                f"The noise of the zero round is {needed:.3f} times as large as privacy is accounted with: it is too "
                "small, and the claimed epsilon does not hold."
            ),
            figures=figures,
        )
    if zero_round.p_too_small <= alarm:
        missing = uploads * (1.0 - ratio**2)
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=(
                f"The noise of the zero round is {ratio:.3f} times as large as that of {uploads} uploads must be: as "
                f"if the shares of about {missing:.1f} of them were missing, or all were too small. It is still what "
                "privacy is accounted with, as long as no more than the assumed colluders leave theirs out."
            ),
            figures=figures,
        )
    if zero_round.p_too_large <= alarm:
        return Verdict(
            outcome=Outcome.INVALID,
            sentence=(
                f"The zero round is {ratio:.3f} times as large as the noise of {uploads} uploads: something else than "
                "noise is in it. Somebody added to the sum, or did not send noise alone."
            ),
            figures=figures,
        )
    if visible > _VISIBLE_SHARE:
        return Verdict(
            outcome=Outcome.CANNOT_TELL,
            sentence=(
                f"{zero_round.values} coordinates of noise are too few: {visible:.0%} of the variance could be missing "
                "unseen. Run more zero rounds."
            ),
            figures=figures,
        )
    seen = (
        "one missing share would have been found"
        if visible * uploads <= 1.0
        else f"{math.ceil(visible * uploads)} missing shares would have been found, fewer perhaps not"
    )
    return Verdict(
        outcome=Outcome.PASSED,
        sentence=(
            f"The noise of the zero round is {ratio:.3f} times as large as that of {uploads} uploads must be, as "
            f"chance allows. With probability 0.99 the absence of {visible:.1%} of its variance would have been found; "
            f"{seen}."
        ),
        figures=figures,
    )


def rounds_finding(found: VarianceTest, share: float) -> Verdict:
    """Is all noise in the training rounds?"""
    ratio, alarm = found.ratio.value, share / 2.0
    visible = _visible_deficit(found.values, alarm)
    figures = {"ratio": ratio, "visible_variance_deficit": visible}
    where = "In the training rounds, along all directions but those of inserted canaries,"
    if found.p_too_small <= alarm:
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=f"{where} the noise is {ratio:.3f} times as large as that of all uploads must be: too small.",
            figures=figures,
        )
    if found.p_too_large <= alarm:
        return Verdict(
            outcome=Outcome.INVALID,
            sentence=(
                f"{where} there is {ratio:.3f} times the noise of all uploads: contributions were clamped, canaries "
                "that were left out came in, or somebody added to the sums. The other figures count for little."
            ),
            figures=figures,
        )
    outcome = Outcome.PASSED if visible <= _VISIBLE_SHARE else Outcome.CANNOT_TELL
    return Verdict(
        outcome=outcome,
        sentence=(
            f"{where} the noise is {ratio:.3f} times that of all uploads, as chance allows; with probability 0.99 the "
            f"absence of {visible:.1%} of its variance would have been found."
        ),
        figures=figures,
    )


def contributions_finding(found: ContributionTest, registration: Registration, share: float) -> Verdict:
    """Are canaries clipped, and sampled as seldom as they should be?"""
    alarm = share / 2.0
    visible = found.visible_factor(alarm, _POWER_QUANTILE)
    figures: dict[str, float | None] = {
        "mean_over_expected": found.overall.factor,
        "largest_factor": found.largest.factor,
        "p_too_large": found.p_too_large,
        "p_too_small": found.overall.p_too_small,
        "visible_factor": visible if math.isfinite(visible) else None,
    }
    if found.p_too_large <= alarm:
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=(
                f"Canaries of {found.largest.name} came with {found.largest.factor:.2f} times what clip norm and "
                "sampling rate allow: they are not clipped, or sampled too often."
            ),
            figures=figures,
        )
    if found.overall.p_too_small <= alarm:
        return Verdict(
            outcome=Outcome.INVALID,
            sentence=(
                f"Inserted canaries came with {found.overall.factor:.2f} times what they should have: they did not all "
                "ride in the rounds, so that the bounds say little."
            ),
            figures=figures,
        )
    if visible >= registration.raw_length:
        return Verdict(
            outcome=Outcome.CANNOT_TELL,
            sentence="Too few canaries and rounds to see a single client that does not clip"
            + (
                f": its canaries would have to come {visible:.1f} times too long, and they are "
                f"{registration.raw_length:g} times as long as the clip norm."
                if math.isfinite(visible)
                else ", whatever it sends."
            ),
            figures=figures,
        )
    return Verdict(
        outcome=Outcome.PASSED,
        sentence=(
            f"Canaries came with {found.overall.factor:.2f} times what clip norm and sampling rate allow, as chance "
            f"allows. A client whose canaries come {visible:.1f} times too long would have been found with probability "
            f"0.99; unclipped they are {registration.raw_length:g} times too long."
        ),
        figures=figures,
    )


def claim_finding(
    bounds: tuple[EpsilonBound, ...], refuting: tuple[EpsilonBound, ...], registration: Registration, claim: Claim
) -> Verdict:
    """Does the claimed epsilon stand? `refuting` are the bounds at a level that counts all tests."""
    highest = max(bounds, key=lambda bound: bound.value)
    against = max(refuting, key=lambda bound: bound.value)
    expected = registration.refutes
    figures: dict[str, float | None] = {
        "claim": claim.epsilon if math.isfinite(claim.epsilon) else None,
        "recomputed": claim.recomputed,
        "highest_bound": highest.value,
        "refuting_bound": against.value,
        "refutable_claim": expected,
        "largest_without_assumptions": bounds[0].largest,
        "planned_claim": registration.claim,
    }
    shown = f"the {against.method} bound, which assumes {against.assumption.value},"
    if against.value > claim.epsilon:
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=(
                f"The ledger claims epsilon {claim.epsilon:.2f} for a canary's unit, and the released sums show more: "
                f"{shown} is {against.value:.2f} at a level that counts all tests."
            ),
            figures=figures,
        )
    if claim.recomputed is not None and claim.recomputed > claim.epsilon * (1.0 + _ACCOUNTING_SLACK):
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=(
                f"The ledger claims epsilon {claim.epsilon:.2f}, and the signed headers come to {claim.recomputed:.2f} "
                "by privacy loss distributions: the ledger's accountant claims too little."
            ),
            figures=figures,
        )
    if registration.claim > claim.epsilon * (1.0 + _ACCOUNTING_SLACK):
        return Verdict(
            outcome=Outcome.LEAK,
            sentence=(
                f"The ledger claims epsilon {claim.epsilon:.2f} for rounds that were planned to cost "
                f"{registration.claim:.2f}: it has charged too little."
            ),
            figures=figures,
        )
    say = (
        f"Nothing contradicts the claimed epsilon of {claim.epsilon:.2f}: the highest bound, {highest.method}, shows "
        f"{highest.value:.2f}. With noise as declared, a claim below about {expected:.2f} would have been refuted and "
        f"one above it not; a perfect attack would have shown {bounds[0].largest:.2f} without assumptions."
    )
    able = expected >= _VISIBLE_CLAIM * claim.epsilon
    return Verdict(outcome=Outcome.PASSED if able else Outcome.CANNOT_TELL, sentence=say, figures=figures)


def together(findings: Mapping[str, Verdict]) -> Verdict:
    """One verdict of all, by the gravest outcome."""
    outcome = worst(findings.values())
    if outcome is Outcome.PASSED:
        return Verdict(
            outcome=outcome,
            sentence="Noise, clipping, sampling and the claimed epsilon stood every test: "
            + findings["noise"].sentence,
        )
    return Verdict(
        outcome=outcome,
        sentence=" ".join(finding.sentence for finding in findings.values() if finding.outcome is outcome),
    )
