"""What a federation is founded on: keys, the roster, the terms, and the bundle of public files that each node pins.

Import from the modules: who makes keys or reads a roster does without torch.
"""

from __future__ import annotations

__all__: list[str] = []
