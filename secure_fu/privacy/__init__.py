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
from secure_fu.privacy.events import GaussianSumEvent
from secure_fu.privacy.exchange import ExchangedSum, exchange_epsilon
from secure_fu.privacy.gaussian import composed_shift, gaussian_epsilon, gaussian_sigma, largest_shift
from secure_fu.privacy.grid import MAX_SUMMED_VECTORS, Grid
from secure_fu.privacy.ledger import PrivacyLedger, Reservation
from secure_fu.privacy.ledger_records import EventStatus, LedgerEvent
from secure_fu.privacy.noise import NoiseShare, assured_clients
from secure_fu.privacy.output_noise import noised, noised_model_epsilon, output_noise, output_step
from secure_fu.privacy.renyi_filter import check_round
from secure_fu.privacy.residual import residual_upper_bound
from secure_fu.privacy.rotated_grid import RotatedGrid
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
    "Budget",
    "Calibration",
    "Confidentiality",
    "EpsilonEntry",
    "EpsilonFigure",
    "EventStatus",
    "ExchangedSum",
    "GaussianSumEvent",
    "Grid",
    "Interval",
    "LedgerEvent",
    "NoiseShare",
    "Phase",
    "PrivacyLedger",
    "Reservation",
    "RocCurve",
    "RotatedGrid",
    "Spending",
    "Subject",
    "Unit",
    "View",
    "assured_clients",
    "auc",
    "calibrate_noise",
    "check_round",
    "clip_l2",
    "clopper_pearson",
    "composed_shift",
    "confidentiality",
    "exchange_epsilon",
    "gaussian_epsilon",
    "gaussian_sigma",
    "largest_shift",
    "mean_interval",
    "noised",
    "noised_model_epsilon",
    "output_noise",
    "output_step",
    "paired_gap_interval",
    "pld_epsilon",
    "renyi_epsilon",
    "residual_upper_bound",
    "roc_curve",
    "true_positive_rate",
]
