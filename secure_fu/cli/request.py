"""`secure-fu request`: sign a deletion request, hand requests in, or both.

With `--json` it prints one object::

    {"schema": "secure-fu/request/1", "requests": [REQUEST, ...]}

A REQUEST has `request_id`, `signer`, `scope`, `client`, `units`, `submitted`, `deadline` and `disclose`. One that was
signed here has `file` as well (null if it was not written); one that was handed in has `state`, `received`, `flag`,
`window` and `new` (false if the queue had it already).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from secure_fu.cli.deletions import (
    entry_fields,
    print_json,
    read_pinned_deletion_policy,
    read_pinned_roster,
    read_time,
    server_queue,
    show_time,
)
from secure_fu.errors import ArgumentError, CryptoError, RecordError
from secure_fu.file_names import DELETION, POLICY, ROSTER

if TYPE_CHECKING:
    from secure_fu.crypto import Identity, Roster
    from secure_fu.deletion import DeletionRequest, SignedRequest, Submission

__all__ = ["request"]

_SCHEMA: Final = "secure-fu/request/1"
_PART: Final = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?")
_MAX_LIST_BYTES: Final = 16 << 20


def request(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR] [FILE]...", help="A server's directory, and request files to hand in there."),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sign a new request with the keys in this keys.bin.")
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Who asks. Default: the only client (or party) in the keys' file."),
    ] = None,
    roster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The roster that you pinned. Default: the one in DIR.")
    ] = None,
    client: Annotated[bool, typer.Option("--client", help="All data of the client, which leaves.")] = False,
    records: Annotated[
        str | None, typer.Option(metavar="LIST", help="Records by position, as 1,2,40-99, or @FILE with such a list.")
    ] = None,
    person: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="All records of a person (a group); repeatable.")
    ] = None,
    class_: Annotated[int | None, typer.Option("--class", metavar="LABEL", help="All records of a class.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="CLIENT", help="At which client; `everywhere` for all. Default: who asks.")
    ] = None,
    units: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most so many privacy units; the server sees this bound."),
    ] = None,
    deadline: Annotated[str | None, typer.Option(metavar="DATE", help="Until when, as 2026-12-31 (UTC).")] = None,
    disclose: Annotated[bool, typer.Option("--disclose", help="The certificate may name who asked.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the signed request goes; a new file.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Ask for deletion: sign a request for others to hand in, or hand signed requests in at the server."""
    given = list(paths or [])
    if identity is None:
        options = {"--as": as_, "--records": records, "--person": person, "--class": class_, "--at": at, "--out": out}
        for option, value in (options | {"--units": units, "--deadline": deadline, "--client": client or None}).items():
            if value is not None:
                raise ArgumentError("--identity", None, f"a file of keys, to sign a request with {option}")
        if len(given) < 2:
            raise ArgumentError("FILE", None, "a server's directory and signed requests, or --identity to sign one")
        handed = _hand_in(given[0], _read_requests(given[1:]), roster)
        _tell(handed, json_=json_)
        return
    if len(given) > 1:
        raise ArgumentError("FILE", str(given[1]), "no further file with --identity: hand others in on their own")
    directory = given[0] if given else None
    pinned_path = roster if roster is not None else directory and directory / ROSTER
    if pinned_path is None:
        raise ArgumentError("--roster", None, "the roster's file: details are sealed to the clients in it")
    pinned = read_pinned_roster(pinned_path, "--roster")
    signer = _signer(identity, as_)
    wanted = _wanted(signer, client=client, records=records, person=person, label=class_, at=at)
    _check_places(wanted, signer.name, identity.parent)
    now = int(time.time())
    until = _deadline(deadline, now, pinned_path.parent)
    signed = _sign(
        signer,
        wanted,
        roster=pinned,
        units=_units(wanted, units, directory),
        submitted=now,
        deadline=until,
        disclose=disclose,
    )
    target = out if out is not None or directory is not None else Path(f"request-{signed.request_id.hex()[:8]}.bin")
    submitted = [] if directory is None else _hand_in(directory, {"the new request": signed}, roster)
    if target is not None:
        _write(target, signed)
    if json_:
        fields = _signed_fields(signed, target) | (_submission_fields(submitted[0]) if submitted else {})
        print_json({"schema": _SCHEMA, "requests": [fields]})
        return
    place = "handed in" if target is None else f"written to {target}" + (", and handed in" if submitted else "")
    _say(f"Request {signed.request_id.hex()}: {signed.describe()}, by {show_time(signed.deadline)}; {place}.")
    _say("Open to the server: this line, and who asks. Which records, persons or class: only the clients concerned.")


def _signer(path: Path, name: str | None) -> Identity:
    from secure_fu.crypto import Role
    from secure_fu.crypto.identity_file import read_identities

    try:
        found = read_identities(path)
    except CryptoError as error:
        raise ArgumentError("--identity", str(path), f"a file of keys ({error})") from None
    if name is None:
        clients = [one for one in found if found[one].role is Role.CLIENT]
        alone = [*found] if len(found) == 1 else clients
        if len(alone) > 1:
            several = f"one of {', '.join(sorted(alone)[:12])}: {path} has the keys of several clients"
            raise ArgumentError("--as", None, several)
        name = alone[0] if alone else None
    if name not in found:
        raise ArgumentError("--as", name, f"one of the parties in {path}: {', '.join(sorted(found)[:12])}")
    return found[name]


def _deadline(text: str | None, now: int, beside: Path) -> int:
    """The deadline in seconds, if the deletion policy that was pinned with the roster lets the server take it."""
    if text is None:
        raise ArgumentError("--deadline", None, "a day, as 2026-12-31")
    until = read_time("--deadline", text)
    if until <= now:
        raise ArgumentError("--deadline", text, f"later than now, {show_time(now)}")
    if (beside / DELETION).is_file():
        policy = read_pinned_deletion_policy(beside, "--roster")
        latest = now + policy.largest_wait_seconds
        if until > latest:
            raise ArgumentError(
                "--deadline",
                text,
                f"{show_time(latest)} at the latest: {beside / DELETION} has largest_wait_seconds = "
                f"{policy.largest_wait_seconds}, {policy.largest_wait_seconds / 86400:.4g} days",
            )
    return until


def _wanted(
    signer: Identity,
    *,
    client: bool,
    records: str | None,
    person: Sequence[str] | None,
    label: int | None,
    at: str | None,
) -> DeletionRequest:
    from secure_fu.deletion import DeletionRequest

    chosen = [client, records is not None, bool(person), label is not None]
    if sum(chosen) != 1:
        options = ("--client", "--records", "--person", "--class")
        given = [option for option, is_given in zip(options, chosen, strict=True) if is_given]
        argument, value = (given[1], f"beside {given[0]}") if given else ("--records", None)
        raise ArgumentError(argument, value, f"one of {', '.join(options)}: which data it is about")
    place = None if at == "everywhere" else (at or signer.name)
    if place is None and (client or records is not None):
        raise ArgumentError("--at", at, "a client, for --client and --records")
    positions = () if records is None else _positions(records)
    try:
        if records is not None:
            return DeletionRequest.some_records(str(place), positions)
        if person:
            return DeletionRequest.person(*person, client=place)
        if label is not None:
            return DeletionRequest.whole_class(label, place)
        return DeletionRequest.whole_client(str(place))
    except ArgumentError as error:
        names = {"groups": "--person", "label": "--class", "client": "--at"}
        option = names.get(error.argument, f"--{error.argument}")
        raise ArgumentError(option, error.value, error.expected) from None


def _check_places(wanted: DeletionRequest, signer: str, folder: Path) -> None:
    """Refuse positions that the signer's own client has not, where its node is beside its keys."""
    if not wanted.records or wanted.client != signer:
        return
    from secure_fu.deployment.node.state import records_noted

    count = records_noted(folder, signer)
    beyond = [] if count is None else [place for place in wanted.records if place >= count]
    if beyond:
        expected = f"positions from 0 to {(count or 0) - 1}: {signer!r} has {count} records in {folder}"
        raise ArgumentError("--records", beyond[0], expected)


def _positions(text: str) -> list[int]:
    """Positions of a list with ranges, counted before any range is written out."""
    from secure_fu.deletion.requests import MAX_POSITIONS

    if text.startswith("@"):
        path = Path(text[1:])
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_LIST_BYTES + 1)
        except OSError as error:
            raise ArgumentError("--records", text, f"a file that can be read ({error.strerror})") from None
        if len(content) > _MAX_LIST_BYTES:
            raise ArgumentError("--records", text, f"a file of at most {_MAX_LIST_BYTES} bytes")
        text = re.sub(r"[\s,]+", ",", content.decode("utf-8", "replace")).strip(",")
    ranges = []
    count = 0
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ArgumentError("--records", part[:40], "positions as 1,2,40-99")
        count += last - first + 1
        if count > MAX_POSITIONS:
            raise ArgumentError("--records", f"{count} positions and more", f"at most {MAX_POSITIONS}: ask in parts")
        ranges.append(range(first, last + 1))
    return [position for one in ranges for position in one]


def _units(wanted: DeletionRequest, units: int | None, directory: Path | None) -> int:
    """The bound, where it is not given: what follows from the request and, in a server's directory, from the unit."""
    if units is not None:
        return units
    if wanted.records:
        return len(wanted.records)
    unit = ""
    if directory is not None and (directory / POLICY).is_file():
        from secure_fu.protocol import read_policy

        try:
            unit = read_policy(directory / POLICY).unit.value
        except RecordError as error:
            raise ArgumentError("DIR", str(directory), f"one with a policy ({error})") from None
    if unit == "client" and wanted.client is not None:
        return 1
    if unit == "group" and wanted.groups and wanted.client is not None:
        return len(wanted.groups)
    expected = "a number: at most so many privacy units (records, persons or clients, as the policy says) are covered"
    raise ArgumentError("--units", None, f"{expected}; a client refuses a request that covers more")


def _sign(
    signer: Identity,
    wanted: DeletionRequest,
    *,
    roster: Roster,
    units: int,
    submitted: int,
    deadline: int,
    disclose: bool,
) -> SignedRequest:
    from secure_fu.deletion import sign_request

    try:
        if signer.party != roster.party(signer.name):
            raise ArgumentError("--identity", signer.name, "keys that the roster has for this party")
        return sign_request(
            signer,
            wanted,
            roster=roster,
            units=units,
            submitted=submitted,
            deadline=deadline,
            disclose=disclose,
        )
    except CryptoError as error:
        raise ArgumentError("--as", signer.name, f"a party of the roster ({error})") from None
    except ArgumentError as error:
        names = {"client": "--at", "deadline": "--deadline", "groups": "--person", "records": "--records"}
        raise ArgumentError(names.get(error.argument, error.argument), error.value, error.expected) from None


def _read_requests(paths: Sequence[Path]) -> dict[str, SignedRequest]:
    from secure_fu.deletion import RequestRefused, read_request

    found = {}
    for path in paths:
        try:
            found[str(path)] = read_request(path)
        except RequestRefused as error:
            raise ArgumentError("FILE", str(path), f"a signed deletion request ({error})") from None
    return found


def _hand_in(directory: Path, requests: dict[str, SignedRequest], roster: Path | None) -> list[Submission]:
    """All of them or none; in the queue, on disk, on return."""
    from secure_fu.deletion import RequestRefused

    with server_queue(directory, make=True) as queue:
        policy = read_pinned_deletion_policy(directory)
        pinned = read_pinned_roster(directory / ROSTER if roster is None else roster, "--roster")
        try:
            return queue.submit_all(list(requests.values()), roster=pinned, policy=policy, now=int(time.time()))
        except RequestRefused as error:
            named = [path for path, one in requests.items() if one.request_id.hex() in str(error)]
            expected = f"a request that this server may serve ({error}); nothing was handed in"
            raise ArgumentError("FILE", (named or list(requests))[0], expected) from None


def _write(path: Path, signed: SignedRequest) -> None:
    from secure_fu.crypto import encode

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(signed))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArgumentError("--out", str(path), f"a new file that can be written ({error.strerror})") from None


def _signed_fields(signed: SignedRequest, path: Path | None) -> dict[str, Any]:
    return {
        "request_id": signed.request_id.hex(),
        "signer": signed.signer,
        "scope": signed.scope.value,
        "client": signed.client or None,
        "units": signed.units,
        "submitted": show_time(signed.submitted),
        "deadline": show_time(signed.deadline),
        "disclose": signed.disclose,
        "file": None if path is None else str(path),
    }


def _submission_fields(one: Submission) -> dict[str, Any]:
    return {**entry_fields(one.entry), "new": one.new}


def _tell(handed: Sequence[Submission], *, json_: bool) -> None:
    if json_:
        print_json({"schema": _SCHEMA, "requests": [_submission_fields(one) for one in handed]})
        return
    for one in handed[:20]:
        entry = one.entry
        known = "" if one.new else "; it was there already"
        _say(f"{entry.request_id.hex()}: {entry.state.value}, by {show_time(entry.deadline)}{known}")
    new = sum(one.new for one in handed)
    more = f", {len(handed) - 20} of them not shown" if len(handed) > 20 else ""
    _say(f"{new} of {len(handed)} requests are new in the queue{more}.")


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
