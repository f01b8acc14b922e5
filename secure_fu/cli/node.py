"""`secure-fu node`: the process that has one machine's keys and data, and answers the server's messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fu.errors import ArgumentError

if TYPE_CHECKING:
    from secure_fu.deletion import DeletionRequest
    from secure_fu.deployment.node import NodeDirectory

__all__ = ["node"]


def node(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The node's directory: node.toml, keys.bin and so on.")
    ],
    socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Where to listen. Default: node.sock in the directory.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--socket-group",
            metavar="NAME",
            help="Let this group of users ask too: for a relay that runs as another user than who has the keys. Needs "
            "--socket, in a folder that the group can enter.",
        ),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Make the records of a node that never had any; only the first time.")
    ] = False,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Do not serve, but leave a private deletion request of a client here, which no server sees: client, "
            "records:0,3,7, person:NAME or class:3. It joins the next window that has hidden units for it.",
        ),
    ] = None,
    client: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose request it is; needed where several clients are hosted.")
    ] = None,
) -> None:
    """Serve the parties of this machine until SIGTERM or SIGINT."""
    if forget is None:
        if client is not None:
            raise ArgumentError("--client", client, "nothing without --forget")
        _serve(directory, socket, group, new=new)
        return
    if socket is not None or group is not None or new:
        raise ArgumentError("--forget", "given", "no option but --client beside it")
    from secure_fu.deployment.node import REQUESTS, NodeDirectory, leave_request

    read = NodeDirectory.read(directory)
    clients = read.clients
    name = client if client is not None or len(clients) != 1 else clients[0]
    if name not in clients:
        raise ArgumentError("--client", name, f"one of the clients hosted here: {', '.join(clients) or 'none'}")
    request = _request(forget, str(name))
    _check_room(forget, request, read, str(name))
    leave_request(directory / REQUESTS, str(name), request)
    print("Left for the node, which takes it up with the next window. Nobody else sees it.")


def _serve(directory: Path, socket: Path | None, group: str | None, *, new: bool) -> None:
    import grp
    import logging
    import signal
    import sys
    import threading

    from secure_fu.deployment.exchange import check_socket, serve, socket_path
    from secure_fu.deployment.logs import event, log_to
    from secure_fu.deployment.node import Node, NodeDirectory

    try:
        number_of_group = None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ArgumentError("--socket-group", group, "a group of this machine") from None
    if group is not None and (socket is None or socket.resolve().parent.is_relative_to(directory.resolve())):
        expected = "with --socket outside the node's directory, which the group must not enter"
        raise ArgumentError("--socket-group", group, expected)
    log_to(sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    path = socket_path(directory) if socket is None else socket
    # Before records are made, for they are made once.
    if new:
        _check_new(NodeDirectory.read(directory))
    check_socket(path, group=number_of_group)
    with Node.create(directory) if new else Node.open(directory) as opened:
        serving = event("node-serving", {"party": list(opened.parties)[:16], "socket": str(path)})

        def tell() -> None:
            logging.getLogger("secure_fu").info("the node listens", extra=serving)

        serve(opened, path, stop=stop, group=number_of_group, on_listening=tell)


def _check_new(read: NodeDirectory) -> None:
    records = [read.record(name) for name in read.parties]
    found = [path.name for path in records if path.exists()]
    if len(found) == len(records):
        raise ArgumentError(
            "--new", "given", f"nothing: the records are there already ({', '.join(found[:8])}): start without --new"
        )
    if found:
        lost = [path.name for path in records if not path.exists()]
        expected = f"a node without records: {', '.join(found[:8])} is there, and {', '.join(lost[:8])} is not"
        raise ArgumentError("--new", "given", f"{expected}; parties that have lost theirs need new keys")


def _check_room(what: str, request: DeletionRequest, read: NodeDirectory, client: str) -> None:
    """Refuse what no window can serve, as far as that can be told without the data."""
    from secure_fu.deployment.node.state import records_noted
    from secure_fu.privacy import Unit

    hidden, wanted = read.deletion_policy.hidden_units, len(request.records) if read.policy.unit is Unit.RECORD else 1
    if hidden < max(1, wanted):
        units = "1 unit" if wanted <= 1 else f"{wanted} units"
        expected = (
            f"what fits in hidden_units, which is {hidden} in deletion.toml, and this has {units}: no window would "
            "ever serve it. Sign a request with `secure-fu request`, which the server sees"
        )
        # Without its value, as below.
        raise ArgumentError("--forget", what.partition(":")[0], expected)
    count = records_noted(read.path, client)
    if count is not None and any(place >= count for place in request.records):
        raise ArgumentError(
            "--forget", what.partition(":")[0], f"positions from 0 to {count - 1}, which {client!r} has"
        )


def _request(what: str, client: str) -> DeletionRequest:
    from secure_fu.deletion import DeletionRequest

    kind, _, value = what.partition(":")
    try:
        if what == "client":
            return DeletionRequest.whole_client(client)
        if kind == "records":
            return DeletionRequest.some_records(client, [int(part) for part in value.split(",")])
        if kind == "person" and value:
            return DeletionRequest.person(value, client=client)
        if kind == "class":
            return DeletionRequest.whole_class(int(value), client)
    except ValueError:  # of int, or an ArgumentError
        pass
    # Without its value: a person's name has no business in a terminal's log.
    raise ArgumentError("--forget", kind, "client, records:0,3,7, person:NAME or class:3")
