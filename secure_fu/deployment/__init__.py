"""Parties on machines of their own, and the server that asks them; knows no transport.

    from secure_fu.deployment import FederationServer, Node, SocketExchange, found, read_terms, write_bundle

The rooms: :mod:`~secure_fu.deployment.founding`; :mod:`~secure_fu.deployment.node` and
:mod:`~secure_fu.deployment.server`, with :mod:`~secure_fu.deployment.exchange` between them;
:mod:`~secure_fu.deployment.upkeep` afterwards; :mod:`~secure_fu.deployment.local`, for nodes that are processes of one
machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from secure_fu.lazy import lazily

if TYPE_CHECKING:
    from secure_fu.deployment.exchange import Exchange as Exchange
    from secure_fu.deployment.exchange import SocketExchange as SocketExchange
    from secure_fu.deployment.exchange import ask as ask
    from secure_fu.deployment.exchange import serve as serve
    from secure_fu.deployment.exchange import socket_path as socket_path
    from secure_fu.deployment.founding.bundle import BUNDLE_FILES as BUNDLE_FILES
    from secure_fu.deployment.founding.bundle import bundle_digest as bundle_digest
    from secure_fu.deployment.founding.bundle import found as found
    from secure_fu.deployment.founding.bundle import node_file as node_file
    from secure_fu.deployment.founding.bundle import write_bundle as write_bundle
    from secure_fu.deployment.founding.setup import make_keys as make_keys
    from secure_fu.deployment.founding.setup import make_roster as make_roster
    from secure_fu.deployment.founding.setup import read_party_file as read_party_file
    from secure_fu.deployment.founding.setup import read_roster as read_roster
    from secure_fu.deployment.founding.setup import rotate_keys as rotate_keys
    from secure_fu.deployment.founding.setup import write_roster as write_roster
    from secure_fu.deployment.founding.terms import Terms as Terms
    from secure_fu.deployment.founding.terms import model_of as model_of
    from secure_fu.deployment.founding.terms import read_terms as read_terms
    from secure_fu.deployment.local import LocalNodes as LocalNodes
    from secure_fu.deployment.local import LocalProcessError as LocalProcessError
    from secure_fu.deployment.logs import log_to as log_to
    from secure_fu.deployment.node import Node as Node
    from secure_fu.deployment.node import NodeDirectory as NodeDirectory
    from secure_fu.deployment.node import leave_request as leave_request
    from secure_fu.deployment.server import FederationServer as FederationServer
    from secure_fu.deployment.server import Patience as Patience
    from secure_fu.deployment.server import deletion_service as deletion_service
    from secure_fu.deployment.server import open_queue as open_queue
    from secure_fu.deployment.server import read_node_sockets as read_node_sockets
    from secure_fu.deployment.server import run_job as run_job
    from secure_fu.deployment.server import write_report as write_report
    from secure_fu.deployment.upkeep import back_up as back_up
    from secure_fu.deployment.upkeep import begin_epoch as begin_epoch
    from secure_fu.deployment.upkeep import changed_roster as changed_roster
    from secure_fu.deployment.upkeep import pin as pin
    from secure_fu.deployment.upkeep import restore as restore

# What a node needs is not what a server needs, and who makes keys does without torch.
_HOMES: Final = {
    "exchange": ("Exchange", "SocketExchange", "ask", "serve", "socket_path"),
    "founding.bundle": ("BUNDLE_FILES", "bundle_digest", "found", "node_file", "write_bundle"),
    "founding.setup": ("make_keys", "make_roster", "read_party_file", "read_roster", "rotate_keys", "write_roster"),
    "founding.terms": ("Terms", "model_of", "read_terms"),
    "local": ("LocalNodes", "LocalProcessError"),
    "logs": ("log_to",),
    "node": ("Node", "NodeDirectory", "leave_request"),
    "server": (
        "FederationServer",
        "Patience",
        "deletion_service",
        "open_queue",
        "read_node_sockets",
        "run_job",
        "write_report",
    ),
    "upkeep": ("back_up", "begin_epoch", "changed_roster", "pin", "restore"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)

if not TYPE_CHECKING:  # a type checker has the names from above, and refuses others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
