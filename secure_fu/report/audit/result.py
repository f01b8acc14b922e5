"""The content of an ``audit.json`` as typed, immutable values.

Areas, rates and shares lie in [0, 1]; a gap is a method's figure minus that of retraining. ``None`` stands where the
file has null: not measured, or not measurable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from secure_fu.report.result import Histogram, Interval

__all__ = [
    "AttackFigures",
    "Audit",
    "Bound",
    "ClassLeakage",
    "Comparison",
    "DeletionFigures",
    "Exposed",
    "Harm",
    "HeldCanaries",
    "Inversion",
    "MembershipFigures",
    "MethodRow",
    "Outcome",
    "PairAttack",
    "Power",
    "ProtocolFigures",
    "Relearning",
    "Source",
    "VarianceCheck",
    "Verdict",
    "ViewRow",
]


class Outcome(Enum):
    """The four answers of an audit."""

    LEAK = "leak"
    INVALID = "invalid"
    CANNOT_TELL = "cannot tell"
    PASSED = "passed"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An answer, its reason in plain words, and the figures that it rests on."""

    outcome: Outcome
    sentence: str
    figures: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was audited: ``kind`` is ``run``, ``config`` or ``scores``; ``quick``: with fewer runs, for a look."""

    kind: str
    name: str
    config: Mapping[str, object] | None
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class AttackFigures:
    """One membership attack; the tuples of its ROC curve are of one length, the band is pointwise.

    ``p_value`` is of the hypothesis that membership leaves no mark on the scores, not corrected.
    """

    auc: Interval
    p_value: float | None
    tpr_at_1pct_fpr: Interval | None
    tpr_at_01pct_fpr: Interval | None
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """One of the records that the chosen attack is surest of; the rate is of non-members with at least its score."""

    record: int
    score: float
    member: bool
    false_positive_rate: float | None


@dataclass(frozen=True, kw_only=True)
class MembershipFigures:
    """Attacks on one model; ``chosen`` is the one that was decided on beforehand, and the verdict rests on it."""

    attacks: Mapping[str, AttackFigures]
    chosen: str
    members: int
    non_members: int
    shadows: int
    most_exposed: tuple[Exposed, ...]
    histogram: Histogram | None
    warnings: tuple[str, ...]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A figure of a method beside that of retraining: means over runs, and the mean gap in a run.

    ``margin`` is None where no equivalence was tested; then so are the p-values and the answer. The p-values are those
    of one test, not corrected for the number of tests.
    """

    value: Interval
    retrained: Interval
    gap: Interval
    margin: float | None
    p_equivalent: float | None
    p_different: float | None
    equivalent: bool | None


@dataclass(frozen=True, kw_only=True)
class PairAttack:
    """An attack on the models before and after, in one game, beside the same with the retrained model."""

    game: str
    feature: str
    auc: Interval
    retrained: Interval
    margin: float
    p_equivalent: float
    p_different: float
    equivalent: bool


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Areas of the membership attack on the retained: before, after, after retraining; and what the deletion did."""

    before: Interval
    after: Interval
    retrained: Interval
    by_deletion: Interval
    by_method: Interval


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """Steps until the model knows the forgotten data again; runs that never did so count as ``longest``."""

    steps: Interval
    retrained: Interval
    gap: Interval
    longest: int


@dataclass(frozen=True, kw_only=True)
class ClassLeakage:
    """Share of runs in which the class of the forgotten was guessed from the change, and without it."""

    accuracy: Interval
    chance: float
    correlation: Interval | None


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How near a record that is rebuilt from the change comes to a deleted one, and the best guess without it."""

    exact: bool
    cosine: Interval
    guess_cosine: Interval
    gain: Interval


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a test could have shown, from the spread between retrained runs alone.

    ``power`` is the chance that a method that equals retraining is found equivalent; ``runs_needed`` the runs for a
    chance of 0.8, None if no number is enough.
    """

    margin: float
    spread: float
    power: float
    runs_needed: int | None


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method of deletion.

    ``headline`` is the one attack on the pair that was chosen beforehand, by game; ``forget_excess`` the accuracy on
    the forgotten less that on test records. The answer of a ``baseline`` does not count towards the audit's.
    """

    name: str
    title: str
    after_only: Mapping[str, Comparison]
    forget_excess: Comparison
    forget_accuracy: Comparison
    forget_loss: Comparison
    test_accuracy: Comparison
    chance: float
    headline: Mapping[str, PairAttack]
    pair: tuple[PairAttack, ...]
    harm: Harm | None
    relearning: Relearning | None
    class_leakage: ClassLeakage | None
    inversion: Inversion | None
    verdict: Verdict
    pair_verdict: Verdict | None
    baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class DeletionFigures:
    """Every method over the same shadow runs. ``units`` target units, ``forgotten`` of them in each run.

    ``reference`` are the attacks on pairs of the model before and the retrained one; ``refused`` the methods that were
    left out, with their reasons.
    """

    runs: int
    units: int
    forgotten: int
    unit: str
    margin: float
    accuracy_margin: float
    utility_margin: float
    level: float
    power: Mapping[str, Power]
    reference: tuple[PairAttack, ...]
    rows: tuple[MethodRow, ...]
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A lower bound on epsilon, and the largest that the method could have shown with a perfect attack.

    ``largest`` is None where nothing limits it.
    """

    method: str
    assumes: str
    value: float
    largest: float | None
    delta: float
    level: float
    canaries: int


@dataclass(frozen=True, kw_only=True)
class VarianceCheck:
    """Measured over expected standard deviation of noise, one-sided p-values for too small and too large."""

    ratio: Interval
    p_too_small: float
    p_too_large: float
    values: int
    level: float


@dataclass(frozen=True, kw_only=True)
class HeldCanaries:
    """What came of the inserted canaries of one client, or of all, over what clip and sampling let expect."""

    name: str
    draws: int
    factor: float
    p_too_large: float
    p_too_small: float


@dataclass(frozen=True, kw_only=True)
class ProtocolFigures:
    """Canaries in a run of the real protocol, against what its ledger claims for one of them.

    ``zero_round`` compares rounds in which everybody sent noise only with the noise of all who took part,
    ``required_noise`` the same rounds with what privacy is accounted with, ``round_noise`` the training rounds with the
    noise of all who took part. ``recomputed`` is the claim by another accountant. ``findings`` has a verdict for each
    question.
    """

    claim_epsilon: float | None
    claim_delta: float
    recomputed: float | None
    bounds: tuple[Bound, ...]
    zero_round: VarianceCheck | None
    required_noise: VarianceCheck | None
    round_noise: VarianceCheck | None
    contributions: tuple[HeldCanaries, ...]
    canaries: int
    rounds: int
    findings: Mapping[str, Verdict]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ViewRow:
    """What one party sees and what it could find out: bounds from its view, beside the claim against it.

    ``claim_epsilon`` is None where there is no claim, or none that is finite.
    """

    party: str
    sees: str
    finds: str
    bounds: tuple[Bound, ...]
    claim_epsilon: float | None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A whole audit."""

    created: str
    complete: bool
    software: Mapping[str, str]
    source: Source
    insecure: tuple[str, ...]
    outcome: Outcome
    sentences: tuple[str, ...]
    membership: MembershipFigures | None
    deletion: DeletionFigures | None
    protocol: ProtocolFigures | None
    views: tuple[ViewRow, ...]
    assumptions: tuple[str, ...]
    not_seen: tuple[str, ...]
    timing: Mapping[str, float]
