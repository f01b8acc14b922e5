"""What bounds and hides one unit's contribution to a secure sum, what that costs, and how to measure what leaks.

Clipping, the grid and exact discrete noise; accounting, calibration and the ledger; statistics of audits. Nothing here
knows of keys, ciphertexts or models.
"""

from __future__ import annotations

from secure_fu.privacy.accounting import pld_epsilon, renyi_epsilon
from secure_fu.privacy.budget import Budget
from secure_fu.privacy.calibration import Calibration, calibrate_noise
from secure_fu.privacy.clipping import clip_l2
from secure_fu.privacy.confidentiality import Confidentiality, EpsilonFigure, confidentiality
from secure_fu.privacy.epsilon import EpsilonEntry, Phase, Subject, View
from secure_fu.privacy.equivalence import EquivalenceTest, equivalence_power, equivalence_test, holm, runs_needed
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.exchange import ExchangedSum, exchange_epsilon
from secure_fu.privacy.forgetting import ChargedRounds
from secure_fu.privacy.gaussian import composed_shift, gaussian_epsilon, gaussian_sigma, largest_shift
from secure_fu.privacy.grid import MAX_SUMMED_VECTORS, Grid
from secure_fu.privacy.ledger import PrivacyLedger, Reservation
from secure_fu.privacy.ledger_records import EventStatus, LedgerEvent
from secure_fu.privacy.lower_bounds import (
    Assumption,
    EpsilonBound,
    ExpectedScores,
    Guesses,
    Registered,
    canaries_needed,
    counting_bound,
    f_dp_bound,
    gaussian_bound,
    lower_bounds,
    mean_bound,
    one_run_bound,
    register,
)
from secure_fu.privacy.noise import NoiseShare, assured_clients
from secure_fu.privacy.noise_variance import VarianceTest, noise_variance_test
from secure_fu.privacy.output_noise import noised, noised_model_epsilon, output_noise, output_step
from secure_fu.privacy.renyi_filter import check_round
from secure_fu.privacy.residual import residual_upper_bound
from secure_fu.privacy.rotated_grid import RotatedGrid
from secure_fu.privacy.shortfall import Shortfall, budgeted_times, shortfall
from secure_fu.privacy.spending import Spending
from secure_fu.privacy.statistics import (
    Interval,
    RocCurve,
    auc,
    clopper_pearson,
    mean_interval,
    paired_gap_interval,
    roc_curve,
    true_positive_rate,
)
from secure_fu.privacy.units import Unit

__all__ = [
    "MAX_SUMMED_VECTORS",
    "Assumption",
    "Budget",
    "Calibration",
    "ChargedRounds",
    "Confidentiality",
    "EpsilonBound",
    "EpsilonEntry",
    "EpsilonFigure",
    "EquivalenceTest",
    "EventStatus",
    "ExchangedSum",
    "ExpectedScores",
    "GaussianSumEvent",
    "Grid",
    "Guesses",
    "Interval",
    "LedgerEvent",
    "NoiseShare",
    "Phase",
    "PrivacyLedger",
    "Registered",
    "Reservation",
    "RocCurve",
    "RotatedGrid",
    "Shortfall",
    "Spending",
    "Subject",
    "Unit",
    "VarianceTest",
    "View",
    "assured_clients",
    "auc",
    "budgeted_times",
    "calibrate_noise",
    "canaries_needed",
    "check_round",
    "clip_l2",
    "clopper_pearson",
    "composed_shift",
    "confidentiality",
    "counting_bound",
    "equivalence_power",
    "equivalence_test",
    "exchange_epsilon",
    "f_dp_bound",
    "gaussian_bound",
    "gaussian_epsilon",
    "gaussian_sigma",
    "holm",
    "largest_shift",
    "lower_bounds",
    "mean_bound",
    "mean_interval",
    "noise_variance_test",
    "noised",
    "noised_model_epsilon",
    "one_run_bound",
    "output_noise",
    "output_step",
    "paired_gap_interval",
    "pld_epsilon",
    "register",
    "renyi_epsilon",
    "residual_upper_bound",
    "roc_curve",
    "runs_needed",
    "shortfall",
    "true_positive_rate",
]
