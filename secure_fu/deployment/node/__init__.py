"""A node: the parties of one machine, with their keys, data, records and what they were ordered to forget."""

from __future__ import annotations

from secure_fu.deployment.node.directory import NodeDirectory
from secure_fu.deployment.node.node import REQUESTS, Node
from secure_fu.deployment.node.state import leave_request

__all__ = ["REQUESTS", "Node", "NodeDirectory", "leave_request"]
