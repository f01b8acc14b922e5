"""`secure-fu backup`, `restore` and `seen`: copies of a server, and going back to one without forgetting."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["backup", "restore", "seen"]

_NOT_IN_IT = (
    "Not in it, for no copy can keep a promise: the records of clients and members, which are on their machines. Who "
    "loses one makes new keys."
)
_HEADS = (
    "These heads show that nothing before them is missing from the copy, not that nothing came after it. That a copy "
    "is behind is found with `secure-fu seen` of every node (`restore --seen`), or else with the newest head of every "
    "branch, as `secure-fu verify` prints them after the last run (`restore --head`)."
)


def backup(
    server: Annotated[
        Path, typer.Argument(metavar="SERVER_DIR", help="The server's directory; the server is stopped.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.tar", help="The copy; must not exist.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Copy keys.bin too: whoever reads the copy then is the server.")
    ] = False,
) -> None:
    """Copy ledger, queue, transcript, releases, checkpoints, windows and certificates, all of one moment."""
    from secure_fu.deployment.upkeep import back_up

    made = back_up(server, out, with_keys=with_keys)
    print(f"{out}: {len(made.files)} files of epoch {made.epoch}, {made.events} rounds in the ledger. Not encrypted.")
    for branch, head in made.heads.items():
        print(f"  {head}  {branch}")
    print(_HEADS)
    print("After the next deletion destroy this copy.")
    print(_NOT_IN_IT)


def restore(
    copy: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What `secure-fu backup` wrote.")],
    out: Annotated[Path, typer.Option(metavar="SERVER_DIR", help="The server's directory; at most keys.bin is there.")],
    transcript: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A transcript that others kept; repeatable.")
    ] = None,
    head: Annotated[list[str] | None, typer.Option(metavar="HEX", help="A branch's newest head; repeatable.")] = None,
    seen: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="What `secure-fu seen` wrote at a node; repeatable.")
    ] = None,
    nothing_newer: Annotated[
        bool, typer.Option("--nothing-newer", help="You vouch that no round was run since the copy was made.")
    ] = False,
) -> None:
    """Make a server's directory of a copy, unless somebody has seen something newer: that was spent."""
    from secure_fu.deployment.founding.setup import parse_digest
    from secure_fu.deployment.upkeep import Evidence
    from secure_fu.deployment.upkeep import restore as restore_copy

    evidence = Evidence(
        transcripts=transcript or (),
        heads=[parse_digest(one, "--head", "verify") for one in head or ()],
        seen=seen or (),
        nothing_newer=nothing_newer,
    )
    made = restore_copy(copy, out, evidence=evidence)
    own = {bytes.fromhex(one) for one in made.heads.values()}
    if not (evidence.seen or evidence.transcripts or nothing_newer) and own.issuperset(evidence.heads):
        print(
            "WARNING: --head is the copy's own last head. That does not show that nothing was run after it: before the "
            "server is used, compare the newest head that others know, or restore with --seen of every node.",
            file=sys.stderr,
        )
    print(f"{out}: as of epoch {made.epoch} with {made.events} rounds in the ledger.")
    if not made.keys:
        print("keys.bin was not in the copy: the server's keys have to be there, or new ones and a new roster.")
    print("Requests that came after the copy have to be handed in again; the same ones twice do no harm.")


def seen(
    node: Annotated[Path, typer.Argument(metavar="NODE_DIR", help="A node's directory; the node is stopped.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it.")] = Path("seen.json"),
) -> None:
    """Say how far the parties of a node have come, for a server that has to be restored; nothing in it is secret."""
    from secure_fu.deployment.upkeep import seen as what_was_seen
    from secure_fu.errors import RecordError

    content = what_was_seen(node)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise RecordError(f"{out} cannot be written: {error.strerror}") from error
    print(f"{out}: to be handed to whoever restores the server.")
