"""The rounds of a secure sum: client, server and key-holder as state machines over bytes.

The only place where :mod:`secure_fu.crypto` and :mod:`secure_fu.privacy` meet.
"""

from __future__ import annotations

from secure_fu.protocol.client import Client
from secure_fu.protocol.in_process import InProcessSums, RoundTraffic
from secure_fu.protocol.key_holder import KeyHolder
from secure_fu.protocol.opening_record import OpeningRecord
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.release import ReleasedModel, ReleasedSum
from secure_fu.protocol.server import Server
from secure_fu.protocol.sums import LocalTask, RoundTerms, SecureSums, SumRequest
from secure_fu.protocol.transcript import Transcript

__all__ = [
    "Client",
    "InProcessSums",
    "KeyHolder",
    "LocalTask",
    "OpeningRecord",
    "Policy",
    "ReleasedModel",
    "ReleasedSum",
    "RoundTerms",
    "RoundTraffic",
    "SecureSums",
    "Server",
    "SumRequest",
    "Transcript",
]
