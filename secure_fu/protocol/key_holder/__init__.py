"""Rounds that a key-holder opens: schemes `bfv` and `plain`. Everybody has to be honest but curious."""

from __future__ import annotations

from secure_fu.protocol.key_holder.encryption import KeyHolderEncryption
from secure_fu.protocol.key_holder.key_holder import KeyHolder
from secure_fu.protocol.key_holder.opening_record import OpeningRecord
from secure_fu.protocol.key_holder.server import KeyHolderServer

__all__ = ["KeyHolder", "KeyHolderEncryption", "KeyHolderServer", "OpeningRecord"]
