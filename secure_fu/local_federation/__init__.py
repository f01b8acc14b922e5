"""A whole federation on this machine, told step by step: from keys to a deletion's certificate, verified.

Nothing in it is special to it: every step calls what an operator would call, most of them as the command itself.
"""

from __future__ import annotations

from secure_fu.local_federation.interrupts import Interrupts
from secure_fu.local_federation.parties import SERVER, Cast
from secure_fu.local_federation.story import Story, Teller
from secure_fu.local_federation.transports import Transport, TransportKind

__all__ = ["SERVER", "Cast", "Interrupts", "Story", "Teller", "Transport", "TransportKind"]
