"""Scheme ``kahe``: key-additive ring-LWE encryption of integer vectors. Own lattice code, not audited.

Imports numba; kernels are compiled when they are first called. Derivations stand in docs/kahe.md.
"""

from __future__ import annotations

from secure_fu.crypto.kahe.cipher import CiphertextSum, ClientKey, open_sum
from secure_fu.crypto.kahe.layout import Layout, choose_layout
from secure_fu.crypto.kahe.parameters import PARAMETER_SETS, ParameterSet

__all__ = ["PARAMETER_SETS", "CiphertextSum", "ClientKey", "Layout", "ParameterSet", "choose_layout", "open_sum"]
