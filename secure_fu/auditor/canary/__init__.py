"""Canary runs: an encrypted run with canaries in it, and what each party could find out from it."""

from __future__ import annotations

__all__: list[str] = []
