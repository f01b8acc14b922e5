"""Processes of this machine: nodes at sockets of their own, started together, watched and ended."""

from __future__ import annotations

from secure_fu.deployment.local.nodes import LocalNodes
from secure_fu.deployment.local.processes import LocalProcessError, Processes, program

__all__ = ["LocalNodes", "LocalProcessError", "Processes", "program"]
