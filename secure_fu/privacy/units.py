"""The privacy unit: whose presence or absence a release must hide."""

from __future__ import annotations

import enum

__all__ = ["Unit"]


class Unit(enum.Enum):
    """What one step between neighbouring federations changes.

    The value is the name that headers, policies, ledgers and result files carry.
    """

    RECORD = "record"
    """One record of one client is added or removed."""

    GROUP = "group"
    """All records of one person within one client are added or removed."""

    CLIENT = "client"
    """One client of the (public) cohort sends zero in place of its contribution."""
