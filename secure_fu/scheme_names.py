"""The schemes that a federation can have, by name; imports nothing, for a configuration is checked before all else."""

from __future__ import annotations

from typing import Final

__all__ = ["KAHE", "SCHEMES"]

KAHE: Final = "kahe"
"""A committee opens its sums; with the others a key-holder does."""
SCHEMES: Final = (KAHE, "bfv", "plain")
