"""Commands of `secure-fu`, run as a person at this machine would run them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secure_fu.deployment.local import program
from secure_fu.errors import SecureFUError

__all__ = ["CommandFailed", "Said", "run_command"]

_LONGEST_SECONDS: Final = 300.0


class CommandFailed(SecureFUError):
    """A command of the story ended with another exit code than it should."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command printed.

    Attributes:
        command: as it was typed.
        output: of stdout, without the last line's end.
        complaint: of stderr.
        code: exit code.
    """

    command: str
    output: str
    complaint: str
    code: int


def run_command(arguments: Sequence[str], *, folder: Path, width: int = 96, expected: int = 0) -> Said:
    """Run `secure-fu` in a folder, without a terminal.

    Args:
        arguments: of the command.
        folder: where it runs; paths in the arguments are seen from there.
        width: columns of what it prints.
        expected: its exit code.

    Raises:
        CommandFailed: it ended with another code.
    """
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "NO_COLOR")}
    done = subprocess.run(  # noqa: S603
        [program("secure-fu"), *arguments],
        cwd=folder,
        env={**kept, "COLUMNS": str(width)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        start_new_session=True,  # an interrupt at the terminal is for the story, which ends this
        check=False,
    )
    said = Said(
        command=" ".join(("secure-fu", *arguments)),
        output="\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines()),
        complaint=done.stderr.strip(),
        code=done.returncode,
    )
    if said.code != expected:
        raise CommandFailed(f"{said.command} ended with code {said.code}, not {expected}: {said.complaint[-2000:]}")
    return said
