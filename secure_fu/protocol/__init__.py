"""The rounds of a secure sum: client, server, committee and key-holder as state machines over bytes.

The only place where :mod:`secure_fu.crypto` and :mod:`secure_fu.privacy` meet.
"""

from __future__ import annotations

from secure_fu.protocol.client import Client
from secure_fu.protocol.client_record import ClientRecord
from secure_fu.protocol.committee import CommitteeEncryption, CommitteeServer, Member, MemberRecord, kahe_parameter_sets
from secure_fu.protocol.encryption import UploadEncryption
from secure_fu.protocol.header import GridKind, Header
from secure_fu.protocol.in_process import InProcessSums
from secure_fu.protocol.key_holder import KeyHolder, KeyHolderEncryption, KeyHolderServer, OpeningRecord
from secure_fu.protocol.opening import CommitteeOpening, KeyHolderOpening
from secure_fu.protocol.policy import Policy
from secure_fu.protocol.policy_file import read_policy, write_policy
from secure_fu.protocol.reconciliation import reconcile
from secure_fu.protocol.release import ReleasedModel, ReleasedSum
from secure_fu.protocol.release_log import ReleaseLog, ResumableSums
from secure_fu.protocol.round_driver import RoundDriver, RoundTraffic
from secure_fu.protocol.server import RoundServer, Run
from secure_fu.protocol.sums import LocalTask, RoundTerms, SecureSums, SumRequest
from secure_fu.protocol.transcript import Transcript
from secure_fu.protocol.verification import VerifiedBranch, verify_against_ledger, verify_transcript

__all__ = [
    "Client",
    "ClientRecord",
    "CommitteeEncryption",
    "CommitteeOpening",
    "CommitteeServer",
    "GridKind",
    "Header",
    "InProcessSums",
    "KeyHolder",
    "KeyHolderEncryption",
    "KeyHolderOpening",
    "KeyHolderServer",
    "LocalTask",
    "Member",
    "MemberRecord",
    "OpeningRecord",
    "Policy",
    "ReleaseLog",
    "ReleasedModel",
    "ReleasedSum",
    "ResumableSums",
    "RoundDriver",
    "RoundServer",
    "RoundTerms",
    "RoundTraffic",
    "Run",
    "SecureSums",
    "SumRequest",
    "Transcript",
    "UploadEncryption",
    "VerifiedBranch",
    "kahe_parameter_sets",
    "read_policy",
    "reconcile",
    "verify_against_ledger",
    "verify_transcript",
    "write_policy",
]
