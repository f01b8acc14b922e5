"""The command line, `secure-fu`: the only place that draws progress, colours and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import typer

from secure_fu.cli import (
    audit,
    backup,
    certificate,
    found,
    keys,
    ledger,
    local,
    node,
    pending,
    request,
    roster,
    simulate,
    unlearn,
    verify,
)
from secure_fu.cli.common import BAD_INPUT, FAILED, complain
from secure_fu.errors import (
    ArgumentError,
    CapacityError,
    DataError,
    LedgerError,
    RunDirectoryError,
    SecureFUError,
    UnattainableEpsilonError,
)

__all__ = ["app", "main"]

_BAD_INPUT_ERRORS = (ArgumentError, CapacityError, DataError, LedgerError, RunDirectoryError, UnattainableEpsilonError)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated unlearning that can be proved.",
)


@app.callback()
def _root() -> None:
    """Federated unlearning that can be proved: secure sums of clipped, noised, encrypted contributions."""


_PANELS: Mapping[str, tuple[Callable[..., None], ...]] = {
    "Try out and judge": (simulate.simulate, audit.audit, ledger.ledger, local.local),
    "Set up a federation": (found.found, found.epoch, node.node),
    "Delete": (request.request, pending.pending, unlearn.unlearn, certificate.certificate, verify.verify),
    "Look after it": (backup.backup, backup.restore, backup.seen),
}


def _help(command: Callable[..., None]) -> str:
    """What a command's docstring says, a line for each paragraph: the terminal folds it, at its own width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.__doc__ or "").split("\n\n"))


for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel, help=_help(_command))(_command)
for _name, _group in (("keys", keys.keys), ("roster", roster.roster)):
    app.add_typer(_group, name=_name, rich_help_panel="Set up a federation")


def main() -> None:
    """Entry point of `secure-fu`.

    Exit codes: 0 done, 1 the run failed, 2 bad input, 3 a leak was found, 4 an audit is not valid (3 and 4 only if
    asked for with --fail-on), 130 interrupted.
    """
    try:
        app()
    except _BAD_INPUT_ERRORS as error:
        complain(str(error), error)
        sys.exit(BAD_INPUT)
    except SecureFUError as error:
        complain(str(error), error)
        sys.exit(FAILED)
