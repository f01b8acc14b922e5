"""Which transports a local federation can have here; imports nothing heavy."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec

__all__ = ["TransportKind", "flower_is_installed"]


class TransportKind(Enum):
    """Which transport: Flower with TLS and authenticated SuperNodes, or the nodes' sockets alone."""

    FLOWER = "flower"
    SOCKETS = "sockets"


def flower_is_installed() -> bool:
    """Whether the extra `flower` is there."""
    return find_spec("flwr") is not None
