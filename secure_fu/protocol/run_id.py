"""The ids of runs: what every round's header names, and so everybody who answers a round has agreed to."""

from __future__ import annotations

import hashlib
from typing import Final

from secure_fu.errors import ArgumentError

__all__ = ["RUN_ID_BYTES", "run_id_of"]

RUN_ID_BYTES: Final = 16
_ORDER: Final = b"\0order\0"


def run_id_of(run_key: bytes, branch: str, order: bytes = b"") -> bytes:
    """The id of a run: the first 16 bytes of a SHA-256. Public.

    It commits to the federation's epoch, to the branch and, for a deletion, to the order. Clients compute it anew from
    the run key that they have pinned and refuse any other: two clients that were told different orders answer in
    different runs, and no round sums what they send.

    Args:
        run_key: of the epoch, 32 bytes, see :class:`~secure_fu.federation.founding.Founding`.
        branch: of the server's ledger.
        order: digest of the deletion order that the run is for, see
            :func:`secure_fu.deletion.wiping.order_digest`; empty for training.

    Raises:
        ArgumentError: the branch has a zero byte, which parts it from the order.
    """
    if "\0" in branch:
        raise ArgumentError("branch", branch, "a name without zero bytes")
    said = run_key + branch.encode() + (_ORDER + order if order else b"")
    return hashlib.sha256(said).digest()[:RUN_ID_BYTES]
