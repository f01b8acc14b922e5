"""Waits that end: for what another thread or process makes, with a limit and a word on what did not come."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(happens: Callable[[], object], what: str, *, seconds: float = 60.0) -> None:
    """Return when it happens.

    Args:
        happens: asked again and again.
        what: in words, for whoever reads that it did not.
        seconds: the limit, far above what it takes.

    Raises:
        AssertionError: it did not happen in time.
    """
    ends = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
