"""Lower bounds on epsilon, from canaries that were inserted by fair coins.

Every bound says what it assumes, and what it could have shown at most. One file a bound; :func:`register` settles
beforehand what must not depend on the scores.
"""

from __future__ import annotations

from secure_fu.privacy.lower_bounds.all_bounds import lower_bounds
from secure_fu.privacy.lower_bounds.bound import Assumption, EpsilonBound
from secure_fu.privacy.lower_bounds.counting import counting_bound
from secure_fu.privacy.lower_bounds.f_dp import f_dp_bound
from secure_fu.privacy.lower_bounds.gaussian_scores import gaussian_bound
from secure_fu.privacy.lower_bounds.guesses import Guesses
from secure_fu.privacy.lower_bounds.mean import mean_bound
from secure_fu.privacy.lower_bounds.one_run import canaries_needed, one_run_bound
from secure_fu.privacy.lower_bounds.registration import ExpectedScores, Registered, register

__all__ = [
    "Assumption",
    "EpsilonBound",
    "ExpectedScores",
    "Guesses",
    "Registered",
    "canaries_needed",
    "counting_bound",
    "f_dp_bound",
    "gaussian_bound",
    "lower_bounds",
    "mean_bound",
    "one_run_bound",
    "register",
]
