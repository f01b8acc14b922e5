"""The content of a run's ``result.json`` as typed, immutable values.

Fractions (accuracies, backdoor success, areas, rates) lie in [0, 1]; gaps are differences of such fractions in [-1, 1].
Sizes are bytes, durations seconds. ``None`` stands where the file has null: not measured, or not measurable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "Attack",
    "Backdoor",
    "Certificate",
    "Confidentiality",
    "CurvePoint",
    "EpsilonClaim",
    "EpsilonFigure",
    "Gap",
    "Guarantee",
    "Histogram",
    "Interval",
    "Privacy",
    "Refused",
    "Result",
    "Row",
    "Scenario",
    "Scheme",
    "TrafficRound",
]


class Guarantee(Enum):
    """What a row's model is claimed to be, whatever the measurements say."""

    NONE = "none"
    EXACT = "exact"
    CERTIFIED = "certified"
    HEURISTIC = "heuristic"
    BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its confidence interval, ``low <= value <= high``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class EpsilonClaim:
    """One differential-privacy figure: for whom, over which phase, seen from which view.

    ``value`` is None where no finite bound holds. ``group_size`` is how many units the figure covers together.
    """

    subject: str
    phase: str
    view: str
    value: float | None
    delta: float
    group_size: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The forgetting guarantee of a certified row."""

    epsilon: float
    delta: float
    group_size: int
    view: str


@dataclass(frozen=True, kw_only=True)
class EpsilonFigure:
    """An epsilon at a delta, of so many units together; None where no finite bound holds."""

    value: float | None
    delta: float
    group_size: int


@dataclass(frozen=True, kw_only=True)
class Confidentiality:
    """How well a deletion is hidden: its transcript, before and after together, and who asked."""

    phase: EpsilonFigure
    pair: EpsilonFigure
    who_asked: EpsilonFigure


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Row minus retrained model."""

    test_accuracy: float
    forget_accuracy: float
    forget_loss: float
    backdoor_success: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of the comparison: the original, the retrained one, or the outcome of a method."""

    name: str
    title: str
    guarantee: Guarantee
    guarantee_text: str
    certificate: Certificate | None
    test_accuracy: float
    retain_accuracy: float | None
    forget_accuracy: float | None
    forget_loss: float | None
    membership_auc: Interval | None
    membership_tpr_at_1pct_fpr: Interval | None
    membership_auc_distance: float | None
    members: int | None
    non_members: int | None
    backdoor_success: float | None
    rounds: int
    predicted_rounds: int | None
    seconds: float
    upload_bytes_per_client: int
    epsilon: tuple[EpsilonClaim, ...]
    confidentiality: Confidentiality | None
    gap: Gap | None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A method that could not serve the request, and why."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Measurements of a branch after ``round`` of its rounds."""

    round: int
    test_accuracy: float
    backdoor_success: float | None


@dataclass(frozen=True, kw_only=True)
class TrafficRound:
    """What one client sent and received in one round of a branch."""

    branch: str
    round: int
    purpose: str
    upload_bytes_per_client: int
    download_bytes_per_client: int
    uploads: int


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of attack scores: ``len(edges) == len(members) + 1 == len(non_members) + 1``."""

    edges: tuple[float, ...]
    members: tuple[int, ...]
    non_members: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """ROC curve of the membership attack on one row, all tuples of one length; the band is pointwise."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    tpr_low: tuple[float, ...] | None
    tpr_high: tuple[float, ...] | None
    histogram: Histogram | None


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """The trigger that makes the influence of the forgotten records visible."""

    target_label: int
    description: str


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Who trained on what, and what was asked to be forgotten."""

    name: str
    description: str
    clients: int
    unit: str
    dimension: int
    model: str
    train_records: int
    test_records: int
    forgotten_records: int
    forgotten_clients: tuple[str, ...]
    request: str
    joined_at_round: int | None
    backdoor: Backdoor | None


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The encryption of the uploads, and whom it asks to trust."""

    name: str
    parameter_set: str
    secure: bool
    trust: str


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The settings that the epsilon figures rest on."""

    delta: float
    budget_epsilon: float | None
    noise_multiplier: float
    clip_norm: float
    sampling_rate: float
    unit: str
    minimum_cohort: int
    colluders: int
    assured: int
    accountant: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """A whole run."""

    created: str
    complete: bool
    insecure: tuple[str, ...]
    software: Mapping[str, str]
    config: Mapping[str, object]
    scenario: Scenario
    scheme: Scheme
    privacy: Privacy
    rows: tuple[Row, ...]
    refused: tuple[Refused, ...]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    traffic: tuple[TrafficRound, ...]
    timing: Mapping[str, float]
    membership: Mapping[str, Attack]

    def row(self, name: str) -> Row | None:
        """The row of this name, or None (only the rows of an incomplete run may be missing)."""
        return next((row for row in self.rows if row.name == name), None)
