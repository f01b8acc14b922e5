"""`secure-fu keys`: each machine makes, and changes, its own keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["keys"]

keys = typer.Typer(no_args_is_help=True, help="Make the keys of this machine's parties, and change them.")

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="This machine's directory; made if it is missing.")]


@keys.command()
def new(
    folder: _Folder,
    party: Annotated[
        list[str],
        typer.Option(metavar="NAME:ROLE", help="A party that lives here: client, member, key-holder or server."),
    ],
) -> None:
    """Draw keys for the parties of this machine: keys.bin stays here, the .party files go to who makes the roster."""
    from secure_fu.deployment.founding.setup import make_keys, parse_party
    from secure_fu.errors import ArgumentError

    roles = [parse_party(one) for one in party]
    if len(dict(roles)) != len(roles):
        raise ArgumentError("--party", party, "each name once")
    _show(folder, make_keys(folder, dict(roles)))


@keys.command()
def rotate(folder: _Folder) -> None:
    """Draw new keys for all parties here. The old ones stay in use until `secure-fu roster pin` takes a new roster."""
    from secure_fu.deployment.founding.setup import rotate_keys

    _show(folder, rotate_keys(folder))


def _show(folder: Path, files: Mapping[str, Path]) -> None:
    from secure_fu.deployment.founding.setup import digest_lines, fingerprint, read_party_file

    for name, path in files.items():
        print(f"{path}: {name}, to be handed to whoever makes the roster. Fingerprint:")
        for line in digest_lines(fingerprint(read_party_file(path).party)):
            print(f"  {line}")
    print(f"The secret keys are in {folder}, readable by their owner alone. Never copy them to another machine.")
