"""Rounds that a committee opens: scheme `kahe`. No single party holds a key, and the server need not be trusted."""

from __future__ import annotations

from secure_fu.protocol.committee.encryption import CommitteeEncryption
from secure_fu.protocol.committee.layout import kahe_parameter_sets
from secure_fu.protocol.committee.member import Member
from secure_fu.protocol.committee.member_record import MemberRecord
from secure_fu.protocol.committee.server import CommitteeServer

__all__ = ["CommitteeEncryption", "CommitteeServer", "Member", "MemberRecord", "kahe_parameter_sets"]
