"""Shadow runs: the real methods on a float replica of the sums, many times over, in worker processes."""

from __future__ import annotations

__all__: list[str] = []
