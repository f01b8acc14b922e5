"""`secure-fu local`: a whole federation on this machine, from keys to a deletion's verified certificate."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fu.cli.common import INTERRUPTED, complain
from secure_fu.errors import ArgumentError

if TYPE_CHECKING:
    from secure_fu.local_federation.kinds import TransportKind

__all__ = ["local"]


def local(
    transport: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="flower: TLS and authenticated SuperNodes; sockets: without Flower, faster. Default: flower, if the "
            "extra `flower` is installed.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new or empty folder. Default: runs/local-TIME.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg",
            help="Draw what is printed as a picture; and write it into FILE.md there or one folder up, between its "
            "markers, if there is one.",
        ),
    ] = None,
) -> None:
    """Start a whole federation here, train it, delete records, kill a node, and verify the certificate.

    Six hospitals' nodes, the server and the transport run as processes of this machine, on the loopback address alone.
    All of them end with the command, and with Ctrl-C at any moment.
    """
    from secure_fu.local_federation.kinds import TransportKind, flower_is_installed

    kinds = {kind.value: kind for kind in TransportKind}
    if transport is None:
        transport = "flower" if flower_is_installed() else "sockets"
    if transport not in kinds:
        raise ArgumentError("--transport", transport, " or ".join(kinds))
    if transport == "flower" and not flower_is_installed():
        raise ArgumentError("--transport", transport, "sockets, or install the extra: pip install 'secure-fu[flower]'")
    if record is not None and (record.suffix != ".svg" or record.is_dir() or not record.absolute().parent.is_dir()):
        raise ArgumentError("--record", str(record), "a file FILE.svg in a folder that exists")
    target = out if out is not None else Path("runs") / f"local-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        _run(target, kinds[transport], record)
    except KeyboardInterrupt as interrupt:
        complain("interrupted; every process that was started is ended", interrupt)
        raise typer.Exit(INTERRUPTED) from None


def _run(target: Path, kind: TransportKind, record: Path | None) -> None:
    from rich.console import Console

    from secure_fu.cli.local_teller import ConsoleTeller, write_recording
    from secure_fu.learning import limit_threads
    from secure_fu.local_federation.interrupts import Interrupts
    from secure_fu.local_federation.story import Story

    limit_threads()
    console = Console()
    teller = ConsoleTeller(console, Console(stderr=True), folder=str(target), transport=kind.value)
    with Interrupts() as interrupts:
        certificate = Story(target, kind, teller=teller, interrupts=interrupts).tell()
    if record is not None:
        for path in write_recording(teller.recording, record):
            console.print(f"Recorded: {path}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Certificate: {target / certificate.name}", markup=False, highlight=False, soft_wrap=True)
