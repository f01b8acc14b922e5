"""Membership attacks as functions on arrays: each gives a score a record, and larger speaks for membership."""

from __future__ import annotations

from secure_fu.audit.attacks.calibrated import calibrated_attack
from secure_fu.audit.attacks.choice import ENOUGH_FOR_LIRA, choose_attack
from secure_fu.audit.attacks.lira import Variance, lira_offline, lira_online
from secure_fu.audit.attacks.loss import loss_attack
from secure_fu.audit.attacks.rmia import offline_scaling, rmia
from secure_fu.audit.attacks.signals import confidence, log_probability

__all__ = [
    "ENOUGH_FOR_LIRA",
    "Variance",
    "calibrated_attack",
    "choose_attack",
    "confidence",
    "lira_offline",
    "lira_online",
    "log_probability",
    "loss_attack",
    "offline_scaling",
    "rmia",
]
