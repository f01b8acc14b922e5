"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["time_text"]


def time_text(seconds: int) -> str:
    """A time in seconds since 1970 as ``2026-12-31T12:00:00Z``; what no calendar holds, as the number that it is."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"
