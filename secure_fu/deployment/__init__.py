"""Parties on machines of their own, and the server that asks them; knows no transport.

Import from the modules: what a node needs is not what a server needs.
"""

from __future__ import annotations

__all__: list[str] = []
