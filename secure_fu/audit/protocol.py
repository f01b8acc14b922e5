"""The audit of a running protocol, from arrays: what canaries' scores, a zero round and an accountant say together.

Why the statistic is valid while real gradients ride in the same sums: a canary's coin is independent of the data, of
the noise and of all other canaries. What else is in the sums adds some number to each component, which does not depend
on that canary's own coin; differential privacy has to hold for every such number. Bounds that assume nothing but the
coins are therefore valid whatever the real gradients do. For those that need independent or Gaussian scores the real
contributions are subtracted first: an adversary who knows all records but the canary is the one that the definition
speaks of. What is left is noise, independent between orthogonal directions, and the canary. Without subtraction the
components of one gradient along random directions are near Gaussian and uncorrelated, of variance |g|^2 / d, so that
the audit loses power and not validity.

How alarms are shared out: a faultless run is flagged with probability `alarm` at most. A quarter each goes to the
bounds, to the zero rounds, to the noise in the training rounds and to the canaries' contributions, and each quarter is
split evenly among its tests (Bonferroni). No quarter depends on what another one found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.contributions import ContributionTest, contribution_test
from secure_fu.audit.protocol_findings import (
    Claim,
    claim_finding,
    contributions_finding,
    noise_finding,
    rounds_finding,
    together,
)
from secure_fu.audit.registration import Registration, all_bounds, level_of_verdicts, likelihood_scores, linear_scores
from secure_fu.audit.verdict import Verdict
from secure_fu.errors import ArgumentError
from secure_fu.privacy.lower_bounds import EpsilonBound
from secure_fu.privacy.noise_variance import VarianceTest, noise_variance_test

__all__ = ["CanaryObservations", "Claim", "ProtocolAudit", "protocol_audit"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CanaryObservations:
    """All that the statistics need of a run; vectors in clip norms.

    Attributes:
        components: y, shape (rounds, m): component along each canary's direction of what was released, less what the
            clients contributed beside canaries.
        others: the same along directions that no canary has, shape (rounds, d - m); noise alone, like canaries that
            were left out.
        inserted: the coins, shape (m,).
        holders: names of who holds canaries.
        holder: position in `holders`, shape (m,).
        took_part: whether a holder's upload is in a round's sum, shape (rounds, holders).
        noise: standard deviation of the noise that all uploads of a round have together, shape (rounds,).
        zeros: what the zero rounds released, shape (zero rounds, d).
        zero_noise: standard deviation of the noise that all their uploads have together, shape (zero rounds,).
        zero_required: standard deviation of the noise that privacy is accounted with: that of the assured shares.
        zero_uploads: number of uploads in each zero round, shape (zero rounds,).

    Raises:
        ArgumentError: shapes do not fit, or an array has entries that are not finite.
    """

    components: NDArray[np.float64]
    others: NDArray[np.float64]
    inserted: NDArray[np.bool_]
    holders: tuple[str, ...]
    holder: NDArray[np.int64]
    took_part: NDArray[np.bool_]
    noise: NDArray[np.float64]
    zeros: NDArray[np.float64]
    zero_noise: NDArray[np.float64]
    zero_required: float
    zero_uploads: NDArray[np.int64]

    def __post_init__(self) -> None:
        rounds, canaries = self.components.shape
        zero_rounds = self.zeros.shape[0]
        expected = {
            "inserted": (canaries,),
            "holder": (canaries,),
            "took_part": (rounds, len(self.holders)),
            "noise": (rounds,),
            "zero_noise": (zero_rounds,),
            "zero_uploads": (zero_rounds,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ArgumentError(name, getattr(self, name).shape, f"shape {shape}")
        if self.others.ndim != 2 or self.others.shape[0] != rounds:
            raise ArgumentError("others", self.others.shape, f"shape ({rounds}, d - m)")
        for name in ("components", "others", "noise", "zeros", "zero_noise"):
            if not np.isfinite(getattr(self, name)).all():
                raise ArgumentError(name, "an array with NaN or infinite entries", "finite values only")


@dataclass(frozen=True, kw_only=True)
class ProtocolAudit:
    """What the audit of a run came to.

    Attributes:
        registration: written down before the run.
        claim: of the ledger.
        bounds: lower bounds on epsilon, each at the registration's level by itself.
        zero_round: the zero rounds' noise against that of all their uploads.
        required_noise: the same against the noise that privacy is accounted with.
        round_noise: the noise in the training rounds, along all directions but those of inserted canaries, against
            that of all uploads.
        contributions: whether inserted canaries came clipped and as seldom as they are to be sampled.
        findings: one verdict for each question: `noise`, `rounds`, `contributions`, `claim`.
        verdict: of all of them.
    """

    registration: Registration
    claim: Claim
    bounds: tuple[EpsilonBound, ...]
    zero_round: VarianceTest
    required_noise: VarianceTest
    round_noise: VarianceTest
    contributions: ContributionTest
    findings: Mapping[str, Verdict]
    verdict: Verdict

    def to_json(self) -> dict[str, object]:
        """As ``audit.json`` carries it."""
        return {
            "claim": self.claim.to_json(),
            "bounds": [bound.to_json() for bound in self.bounds],
            "zero_round": self.zero_round.to_json(),
            "required_noise": self.required_noise.to_json(),
            "round_noise": self.round_noise.to_json(),
            "contributions": self.contributions.to_json(),
            "canaries": self.registration.canaries,
            "rounds": self.registration.rounds,
            "registration": self.registration.to_json(),
            "findings": {name: finding.to_json() for name, finding in self.findings.items()},
            "verdict": self.verdict.to_json(),
        }


def protocol_audit(observed: CanaryObservations, *, registration: Registration, claim: Claim) -> ProtocolAudit:
    """Put bounds, chi-square tests and contributions together.

    Args:
        observed: of the run.
        registration: from before it.
        claim: of the ledger.

    Raises:
        ArgumentError: the observations are not those of the registration.
    """
    if observed.components.shape != (registration.rounds, registration.canaries):
        raise ArgumentError(
            "components",
            observed.components.shape,
            f"shape {(registration.rounds, registration.canaries)}, as registered",
        )
    share = registration.alarm / 4.0
    likelihood = likelihood_scores(observed.components, noise=observed.noise, rate=registration.sampling_rate)
    linear = linear_scores(observed.components, noise=observed.noise)

    def bounds_at(level: float) -> tuple[EpsilonBound, ...]:
        return all_bounds(
            likelihood,
            linear,
            observed.inserted,
            registered=registration.registered,
            delta=claim.delta,
            level=level,
        )

    bounds = bounds_at(registration.level)
    refuting = bounds_at(level_of_verdicts(registration.alarm))
    level = registration.level
    standard_zeros = (observed.zeros / observed.zero_noise[:, None]).ravel()
    zero_round = noise_variance_test(standard_zeros, expected=1.0, level=level)
    required = noise_variance_test(observed.zeros.ravel(), expected=observed.zero_required, level=level)
    noise_alone = np.concatenate([observed.components[:, ~observed.inserted], observed.others], axis=1)
    round_noise = noise_variance_test((noise_alone / observed.noise[:, None]).ravel(), expected=1.0, level=level)
    contributions = contribution_test(
        observed.components,
        inserted=observed.inserted,
        holders=observed.holders,
        holder=observed.holder,
        took_part=observed.took_part,
        noise=observed.noise,
        rate=registration.sampling_rate,
    )
    findings = {
        "noise": noise_finding(zero_round, required, int(observed.zero_uploads.min()), share),
        "rounds": rounds_finding(round_noise, share),
        "contributions": contributions_finding(contributions, registration, share),
        "claim": claim_finding(bounds, refuting, registration, claim),
    }
    return ProtocolAudit(
        registration=registration,
        claim=claim,
        bounds=bounds,
        zero_round=zero_round,
        required_noise=required,
        round_noise=round_noise,
        contributions=contributions,
        findings=findings,
        verdict=together(findings),
    )
