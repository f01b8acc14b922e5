"""secure_fu on Flower: a thin relay at the nodes, and a server that drives the federation over Flower's grid.

    from secure_fu.flower import LocalFlower

An app's two modules take theirs from :mod:`~secure_fu.flower.client_app` and :mod:`~secure_fu.flower.server_app`: what
the relay needs is not what the server needs, and Flower starts it for each message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from secure_fu.lazy import lazily

if TYPE_CHECKING:
    from secure_fu.flower.certificates import NodeKey as NodeKey
    from secure_fu.flower.certificates import ServerCertificate as ServerCertificate
    from secure_fu.flower.certificates import make_node_key as make_node_key
    from secure_fu.flower.certificates import make_server_certificate as make_server_certificate
    from secure_fu.flower.grid_exchange import GridExchange as GridExchange
    from secure_fu.flower.local import LocalFlower as LocalFlower
    from secure_fu.flower.local import RunOutcome as RunOutcome
    from secure_fu.flower.node_host import serve_all as serve_all
    from secure_fu.flower.server_app import RunSettings as RunSettings

# Each loads what it needs, when it is first used.
_HOMES: Final = {
    "certificates": ("NodeKey", "ServerCertificate", "make_node_key", "make_server_certificate"),
    "grid_exchange": ("GridExchange",),
    "local": ("LocalFlower", "RunOutcome"),
    "node_host": ("serve_all",),
    "server_app": ("RunSettings",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)

if not TYPE_CHECKING:  # a type checker has the names from above, and refuses others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
