"""How a server and its nodes talk: bytes to each node and back, over sockets of one machine here.

Import what they say to each other from :mod:`~secure_fu.deployment.exchange.messages`: a relay, which is started anew
for each message, carries bytes and does without it and without torch.
"""

from __future__ import annotations

from secure_fu.deployment.exchange.exchange import Exchange
from secure_fu.deployment.exchange.node_socket import ask, check_socket, serve, socket_path
from secure_fu.deployment.exchange.socket_exchange import SocketExchange

__all__ = ["Exchange", "SocketExchange", "ask", "check_socket", "serve", "socket_path"]
