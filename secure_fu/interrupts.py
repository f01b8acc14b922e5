"""Interrupts wait while what a file says and what memory says are brought from one state to the next together."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["interrupts_wait"]


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """A block inside which Ctrl-C does nothing; it is made up for at the end.

    For short work on records only. Without it an interrupt may fall between a commit and the line that remembers it:
    whoever caught the interrupt, as a notebook does, would go on with an object that no longer fits its file.

    Edge cases:
        Python runs handlers in the main thread alone, so elsewhere there is nothing to hold back. A SIGINT that is
        ignored, or whose handler is not Python's, is left as it is. Blocks nest. A kill is another matter: the files
        bear one at every moment.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came = False

    def remember(number: int, frame: object) -> None:
        nonlocal came
        came = True

    try:
        signal.signal(signal.SIGINT, remember)
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
