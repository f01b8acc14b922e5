"""The server's half: the federation that it drives, the nodes that it asks, and deletions that run there."""

from __future__ import annotations

from secure_fu.deployment.server.deletion_executor import (
    CERTIFICATES,
    NODES,
    QUEUE,
    deletion_service,
    read_node_sockets,
)
from secure_fu.deployment.server.federation_server import FederationServer
from secure_fu.deployment.server.remote_sums import Patience
from secure_fu.deployment.server.window_files import WindowFiles

__all__ = [
    "CERTIFICATES",
    "NODES",
    "QUEUE",
    "FederationServer",
    "Patience",
    "WindowFiles",
    "deletion_service",
    "read_node_sockets",
]
