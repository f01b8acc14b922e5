"""A server's next epoch: another roster from the next round on, and all that was spent and learnt goes on.

What becomes of a server's files: ledger, checkpoints, the main line, queue and certificates stay. The transcript of the
epoch that ends is put away in `epochs/N`, with the roster and the policy that it verifies under, and the new epoch
begins one of its own; `federation.json` names the heads that the old one ended in, so that nodes pin these too.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from secure_fu.crypto import CommitteeTerms, Roster
from secure_fu.deletion.queue import State, WindowState
from secure_fu.deletion.requests import SignedBatch
from secure_fu.deployment.founding.bundle import BUNDLE_FILES, check_server_keys
from secure_fu.deployment.founding.setup import read_roster
from secure_fu.deployment.server import WindowFiles, open_queue
from secure_fu.deployment.upkeep.roster_changes import next_policy
from secure_fu.errors import ArgumentError, RecordError, RosterError
from secure_fu.federation.founding import Founding, read_founding, write_founding
from secure_fu.federation.main_line_file import read_standing
from secure_fu.file_names import DELETION, FOUNDING, KEYS, LEDGER, NEXT_KEYS, POLICY, QUEUE, ROSTER, TRANSCRIPT
from secure_fu.privacy import PrivacyLedger
from secure_fu.protocol import Policy, ReleaseLog, read_policy, reconcile, write_policy
from secure_fu.protocol.files import destroy_file, sync_folder, write_whole

__all__ = ["EPOCHS", "begin_epoch"]

EPOCHS: Final = "epochs"
_STAGE: Final = "epoch-next"


def begin_epoch(
    server: Path, roster: Roster, *, terms: CommitteeTerms | None = None, refuse_requests: bool = False
) -> Founding:
    """Let a server that is stopped go on under another roster.

    Formal guarantees:
        The ledger stays as it is, and so does every client's record: rounds of the new epoch are charged on top of all
        that came before. The transcript of the old epoch is checked, against the ledger too, and kept. A kill leaves a
        server that is refused, or the old epoch; the same call again ends what was begun.
    Not guaranteed:
        That a client which is removed forgets anything, or is forgotten: that is a deletion.
    Edge cases:
        It needs a state that is on disk without the released sums behind it, which were signed for the old roster:
        after a round on the checkpoints' grid, or after a deletion. And windows have to be done with: their orders, and
        what waits in the queue, are signed under the old roster. Otherwise it says so, and nothing changes.

    Args:
        server: the server's directory; `keys.bin`, or `keys-next.bin` after a rotation, has the roster's server.
        roster: from :func:`secure_fu.deployment.upkeep.changed_roster`.
        terms: of the committee, where they change.
        refuse_requests: whether requests that wait, of parties that go or have new keys, are refused: they have to be
            signed again.

    Returns:
        what the new epoch is founded on.

    Raises:
        ArgumentError: the roster is that of the epoch that runs, or does not fit.
        LedgerError: another process has the directory.
        RecordError: released sums are waiting for the next checkpoint, a window is under way or not confirmed by all,
            or requests wait that the new roster cannot check; or files are damaged.
        TranscriptError: the transcript does not hold.
        CryptoError, RosterError: the server's keys are missing, or not those of the roster.
    """
    with PrivacyLedger.open(server / LEDGER) as ledger:
        stage = server / _STAGE
        if not _is_under_way(server, stage):
            shutil.rmtree(stage, ignore_errors=True)
            waiting = _stage(server, stage, roster, terms, ledger, refuse_requests)
            _refuse(server, waiting)
        elif read_roster(stage / ROSTER).digest != roster.digest:
            raise ArgumentError("ROSTER", roster.digest.hex(), f"that of the epoch that was begun, in {stage}")
        return _swap(server, stage)


def _is_under_way(server: Path, stage: Path) -> bool:
    """Whether the swap has begun: the roster goes first, and from then on nothing else opens the directory."""
    with suppress(OSError, ArgumentError):
        return (stage / FOUNDING).exists() and (stage / ROSTER).read_bytes() == (server / ROSTER).read_bytes()
    return False


def _stage(
    server: Path,
    stage: Path,
    roster: Roster,
    terms: CommitteeTerms | None,
    ledger: PrivacyLedger,
    refuse_requests: bool,
) -> tuple[bytes, ...]:
    """Check all that can be checked, and write the new files beside the old ones; ids of requests to refuse."""
    founding, old, policy = read_founding(server / FOUNDING), read_roster(server / ROSTER), read_policy(server / POLICY)
    if roster.digest == old.digest:
        raise ArgumentError("ROSTER", roster.digest.hex(), "another roster than the one of the epoch that runs")
    heads = _settled_heads(server, founding, old, policy, ledger)
    _check_windows(server, roster)
    waiting = _waiting(server, old, roster)
    if waiting and not refuse_requests:
        raise RecordError(
            f"{len(waiting)} deletion requests wait whose signers go or have new keys, so that nobody can check them "
            "any more: execute their window first, or refuse them (--refuse-requests) and have them signed again"
        )
    new_policy = next_policy(policy, roster, scheme_name=founding.scheme_name, terms=terms)
    _server_keys(server, roster)
    clients = tuple(sorted(roster.clients))
    epoch = int(founding.facts.get("epoch", "1"))
    next_founding = replace(
        founding,
        clients=clients,
        roster_digest=roster.digest,
        run_key=os.urandom(32),
        facts={**founding.facts, "epoch": str(epoch + 1), "before": json.dumps(heads, sort_keys=True)},
    )
    try:
        stage.mkdir(mode=0o700)
        past = stage / "past"
        past.mkdir(mode=0o700)
        for name in (*BUNDLE_FILES, TRANSCRIPT):
            with suppress(FileNotFoundError):
                write_whole(past / name, (server / name).read_bytes())
        write_whole(stage / ROSTER, roster.encode())
        write_policy(new_policy, stage / POLICY)
        write_whole(stage / DELETION, (server / DELETION).read_bytes())
        write_founding(stage / FOUNDING, next_founding)
    except OSError as error:
        raise RecordError(f"{stage} cannot be written: {error.strerror}") from error
    return waiting


def _settled_heads(
    server: Path, founding: Founding, roster: Roster, policy: Policy, ledger: PrivacyLedger
) -> dict[str, str]:
    """The heads of the epoch that ends, checked, by branch."""
    if founding.roster_digest != roster.digest:
        raise RecordError(f"{server / ROSTER} is damaged or of another federation than {server / FOUNDING}")
    logs = {
        branch: ReleaseLog(path)
        for branch in ledger.branches
        if (path := server / "releases" / branch.replace("/", "-")).is_dir()
    }
    verified = reconcile(server / TRANSCRIPT, logs=logs, ledger=ledger, roster=roster, policy=policy)
    for branch, log in logs.items():
        if log.rounds:
            raise RecordError(
                f"branch {branch!r} has {len(log.rounds)} rounds since its last checkpoint, which only the present "
                f"roster verifies; expected a state on the checkpoints' grid (every {founding.plan.checkpoint_every} "
                "rounds) or after a deletion: run rounds up to there first"
            )
    return {name: branch.head.hex() for name, branch in verified.items()}


def _check_windows(server: Path, roster: Roster) -> None:
    """Refuse while a window is under way, or a client has not confirmed one: its order is signed with the old keys."""
    if (server / QUEUE).exists():
        with open_queue(server, read_only=True) as queue:
            under_way = queue.windows(WindowState.EXECUTING)
        if under_way:
            raise RecordError(f"window {under_way[0].window_id.hex()} is under way; run `secure-fu unlearn` to its end")
    standing = read_standing(server)
    files = WindowFiles(server)
    for entry in () if standing is None else standing.executed:
        if not isinstance(entry.request, SignedBatch):
            continue
        window_id = entry.request.window_id
        started = files.started(window_id)
        told = roster.clients & set(() if started is None else started.clients)
        missing = sorted(told - files.wiped(window_id).keys())
        if missing:
            raise RecordError(
                f"{', '.join(missing[:8])} have not confirmed window {window_id.hex()} and could not be told of it any "
                "more; run `secure-fu unlearn` while they can be reached, or take them out of the roster"
            )


def _waiting(server: Path, old: Roster, new: Roster) -> tuple[bytes, ...]:
    """Ids of the requests that wait and that the new roster cannot check."""
    if not (server / QUEUE).exists():
        return ()
    changed = {party.name for party in old.parties} - {party.name for party in set(old.parties) & set(new.parties)}
    with open_queue(server, read_only=True) as queue:
        entries = queue.entries(State.RECEIVED, State.ACCEPTED, State.SCHEDULED)
    # A client's new keys also open no details that were sealed to its old ones.
    return tuple(entry.request_id for entry in entries if {entry.signer, entry.client} & changed)


def _refuse(server: Path, waiting: tuple[bytes, ...]) -> None:
    if waiting:
        with open_queue(server) as queue:
            for request_id in waiting:
                queue.refuse(request_id, "its signer has left or has new keys; to be signed again", int(time.time()))


def _server_keys(server: Path, roster: Roster) -> Path:
    if (server / NEXT_KEYS).exists():
        with suppress(RosterError):
            check_server_keys(server / NEXT_KEYS, roster)
            return server / NEXT_KEYS
    check_server_keys(server / KEYS, roster)
    return server / KEYS


def _swap(server: Path, stage: Path) -> Founding:
    """Put the new files in the old ones' place; each step may have been done before."""
    roster = read_roster(stage / ROSTER)
    ended = read_founding(stage / "past" / FOUNDING).facts.get("epoch", "1")
    archive = server / EPOCHS / ended
    try:
        write_whole(server / ROSTER, roster.encode())  # first: from here on the directory is refused until all is done
        if not archive.exists():
            archive.parent.mkdir(mode=0o700, exist_ok=True)
            part = archive.with_name(f".{ended}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(stage / "past", part)
            part.rename(archive)
            sync_folder(archive.parent)
        (server / TRANSCRIPT).unlink(missing_ok=True)
        keys = _server_keys(server, roster) if (server / KEYS).exists() else server / NEXT_KEYS
        if keys.name == NEXT_KEYS:
            destroy_file(server / KEYS)
            keys.replace(server / KEYS)
        for name in (POLICY, DELETION, FOUNDING):
            write_whole(server / name, (stage / name).read_bytes())
        shutil.rmtree(stage)
    except OSError as error:
        raise RecordError(
            f"{server} cannot be written: {error.strerror}; free its disk and do the same again"
        ) from error
    return read_founding(server / FOUNDING)
