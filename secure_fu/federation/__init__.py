"""The library's front door: a federation in one process, its parties, and the line of models that it goes along."""

from __future__ import annotations

from secure_fu.federation.branches import Unlearned
from secure_fu.federation.coordinator import Coordinator
from secure_fu.federation.costs import Cost
from secure_fu.federation.federation import Federation
from secure_fu.federation.main_line import ORIGINAL, Executed
from secure_fu.federation.parties import DEFAULT_COMMITTEE
from secure_fu.federation.parting import Parting
from secure_fu.scheme_names import KAHE

__all__ = [
    "DEFAULT_COMMITTEE",
    "KAHE",
    "ORIGINAL",
    "Coordinator",
    "Cost",
    "Executed",
    "Federation",
    "Parting",
    "Unlearned",
]
