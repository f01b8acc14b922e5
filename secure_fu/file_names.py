"""What the files of a federation are called, in the directories of its server and its nodes; imports nothing heavy."""

from __future__ import annotations

from typing import Final

__all__ = [
    "AUDIT",
    "CERTIFICATES",
    "DELETION",
    "FOUNDING",
    "KEYS",
    "LEDGER",
    "MAIN_LINE",
    "NEXT_KEYS",
    "NODE",
    "NODES",
    "POLICY",
    "QUEUE",
    "ROSTER",
    "TRANSCRIPT",
    "WINDOWS",
]

ROSTER: Final = "roster.bin"
POLICY: Final = "policy.toml"
DELETION: Final = "deletion.toml"
"""The deletion policy."""
FOUNDING: Final = "federation.json"
"""What the federation was founded with."""
KEYS: Final = "keys.bin"
NEXT_KEYS: Final = "keys-next.bin"
"""After a rotation, until the new roster is pinned."""
NODE: Final = "node.toml"
"""What a node hosts."""
NODES: Final = "nodes.toml"
"""Where the server finds the nodes."""
LEDGER: Final = "ledger.sqlite"
TRANSCRIPT: Final = "transcript.jsonl"
MAIN_LINE: Final = "main_line.json"
QUEUE: Final = "deletion/queue.sqlite"
"""Of deletion requests."""
CERTIFICATES: Final = "deletion/certificates"
WINDOWS: Final = "deletion/windows"
"""A folder for each deletion window that was begun."""
AUDIT: Final = "deletion/audit.json"
"""What `secure-fu audit` said of this federation's configuration; certificates quote it when it is there."""
