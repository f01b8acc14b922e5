"""Exact samples of the discrete Gaussian: DP noise in privacy, keys and errors in crypto. Imports neither."""

from __future__ import annotations

from secure_fu.discrete_gaussian.sampler import (
    MAX_SIGMA_SQUARED,
    RandomStream,
    fresh_words,
    sample_discrete_gaussian,
    tail_bound,
)

__all__ = ["MAX_SIGMA_SQUARED", "RandomStream", "fresh_words", "sample_discrete_gaussian", "tail_bound"]
