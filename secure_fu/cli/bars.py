"""Progress on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["PhaseBars", "phase_bars"]


class PhaseBars:
    """One progress bar a phase, on a terminal; nothing in a pipe."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def phase(self, title: str, steps: int) -> None:
        """A phase of so many steps begins; the one before it is done."""
        if self._task is not None:
            total = self._progress.tasks[-1].total
            self._progress.update(self._task, completed=total)
        self._task = self._progress.add_task(title, total=steps)

    def advance(self) -> None:
        """One step of the phase is done."""
        if self._task is not None:
            self._progress.advance(self._task)


@contextmanager
def phase_bars(console: Console) -> Iterator[PhaseBars]:
    """Bars that go away with the block's end; none unless the console is a terminal."""
    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield PhaseBars(progress)
