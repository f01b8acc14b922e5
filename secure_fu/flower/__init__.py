"""secure_fu on Flower: a thin relay at the nodes, and a server that drives the federation over Flower's grid.

Import from the modules: what the relay needs is not what the server needs, and Flower starts it for each message.
"""

from __future__ import annotations

__all__: list[str] = []
