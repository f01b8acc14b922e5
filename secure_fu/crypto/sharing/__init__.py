"""Packed Shamir sharing of keys among a committee: t members recover a sum of keys, f of them learn nothing."""

from __future__ import annotations

from secure_fu.crypto.sharing._field import FIELD_PRIME
from secure_fu.crypto.sharing.recovery import MAX_SUBSETS, Recovered, recover_key
from secure_fu.crypto.sharing.shares import ShareSum, decode_share, encode_share, share_key
from secure_fu.crypto.sharing.terms import MAX_MEMBERS, CommitteeTerms

__all__ = [
    "FIELD_PRIME",
    "MAX_MEMBERS",
    "MAX_SUBSETS",
    "CommitteeTerms",
    "Recovered",
    "ShareSum",
    "decode_share",
    "encode_share",
    "recover_key",
    "share_key",
]
