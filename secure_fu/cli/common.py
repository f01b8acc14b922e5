"""What the commands share: exit codes, complaints, options that mean the same everywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BAD_INPUT",
    "DEFAULT_PRESET",
    "FAILED",
    "INTERRUPTED",
    "INVALID_FOUND",
    "LEAK_FOUND",
    "DataDirectory",
    "Overrides",
    "complain",
]

FAILED = 1
BAD_INPUT = 2
LEAK_FOUND = 3
INVALID_FOUND = 4
INTERRUPTED = 130

DEFAULT_PRESET = "digits-silos"

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, as privacy.epsilon=4; repeatable."),
]
DataDirectory = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Folder or file with the data; the mnist presets need one of IDX files."),
]


def complain(message: str, error: BaseException) -> None:
    """Say on stderr, one line each, what is wrong and what the error's notes add."""
    for line in (message, *getattr(error, "__notes__", ())):
        print(f"secure-fu: {line}", file=sys.stderr)
