"""`secure-fu ledger`: what a run has spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secure_fu.errors import RunDirectoryError
from secure_fu.file_names import LEDGER

__all__ = ["ledger"]


def ledger(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory.")],
) -> None:
    """Show what each branch of a run has spent, and on what."""
    from secure_fu.privacy import PrivacyLedger
    from secure_fu.report.ledger_table import ledger_table

    path = run_dir / LEDGER
    if not path.is_file():
        raise RunDirectoryError(
            f"RUN_DIR is {str(run_dir)!r}, which holds no ledger.sqlite; expected the folder of a run"
        )
    with PrivacyLedger.open(path, read_only=True) as opened:
        Console().print(ledger_table(opened))
