"""What a deletion certificate is made of, from a federation that has executed a deletion."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

from secure_fu.deletion import SignedBatch
from secure_fu.deletion.certificates import Accounts, Counted, ledger_rounds
from secure_fu.deletion.execution import Execution
from secure_fu.errors import ArgumentError, TranscriptError
from secure_fu.federation.main_line_file import Executed
from secure_fu.privacy import Phase, PrivacyLedger, Subject, View
from secure_fu.protocol.run_id import run_id_of
from secure_fu.training import Lineage, TrainingState
from secure_fu.unlearning import Certified, CertifiedModel

__all__ = ["Before", "Federated", "before_deletion", "execution_of"]

_PACKAGES: Final = ("secure-fu", "torch", "tenseal", "numpy", "dp-accounting", "cryptography")
_START: Final = bytes(32).hex()
_LARGEST_GROUP: Final = 64


class Federated(Protocol):
    """What is asked of a federation, in one process or a server's."""

    @property
    def ledger(self) -> PrivacyLedger:
        """Of the server."""

    @property
    def state(self) -> TrainingState:
        """The newest of the main line."""

    @property
    def executed(self) -> tuple[Executed, ...]:
        """The deletions that were executed."""

    @property
    def lineage(self) -> Lineage:
        """Branches, and the last round in each, that the newest state comes from; the last is that of the deletion."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """Where a federation stood before a deletion; to be written down before the deletion is asked for.

    Attributes:
        model: SHA-256 of the released parameters, as hexadecimal digits.
        executed: number of deletions executed so far.
        started: when, in seconds since 1970 (UTC).
    """

    model: str
    executed: int
    started: int

    def to_json(self) -> dict[str, Any]:
        """For a file of the executor's; :class:`Before` takes it back as keywords."""
        return {"model": self.model, "executed": self.executed, "started": self.started}


def before_deletion(federation: Federated, *, now: int | None = None) -> Before:
    """Where a federation stands now."""
    return Before(
        model=federation.state.model.digest.hex(),
        executed=len(federation.executed),
        started=int(time.time()) if now is None else now,
    )


def execution_of(
    federation: Federated,
    before: Before,
    *,
    transcript: Path,
    settings: Mapping[str, float | int | str | bool],
    window_id: bytes,
    concerned: Collection[str] | None,
    units: int | None = None,
    wiped: Sequence[bytes] = (),
    missing: Collection[str] = (),
    finished: int | None = None,
    opened: int = 0,
    order: bytes = b"",
    run_key: bytes = b"",
    continues_after: int = 0,
) -> Execution:
    """What is known of a deletion that a federation has executed; before anything else is asked of it.

    Formal guarantees:
        Where `concerned` is None, nothing in it depends on which clients hold the units, but for the number of units,
        rounded up to a power of two unless given, the released models, and the checkpoint that a re-run began with,
        which the transcript shows.

    Args:
        federation: its newest executed deletion is the one that is meant.
        before: where it stood before.
        transcript: the server's transcript file.
        settings: all of the method that was run, as :func:`secure_fu.unlearning.settings_of` says them.
        window_id: 16 bytes.
        concerned: the clients that hold the units, whose charges are counted; None counts those of all clients: see
            :func:`secure_fu.deletion.certificates.concerned_clients`.
        units: at most so many went, as the requests declare; None takes the deletion's own number.
        wiped: encoded statements of clients.
        missing: clients that have not confirmed.
        finished: now, unless given.
        opened: when the window was due, in seconds since 1970 (UTC).
        order: digest of the order that clients were told, 32 bytes; see :func:`secure_fu.deletion.wiping.order_digest`.
            Empty, as all of these, where clients were told none: the requests were not signed.
        run_key: of the federation's founding, 32 bytes.
        continues_after: as in the order.

    Raises:
        ArgumentError: no deletion was executed since `before`, or more than one.
        TranscriptError: the transcript does not show its rounds.
    """
    if len(federation.executed) != before.executed + 1:
        raise ArgumentError(
            "before.executed", before.executed, f"one fewer than were executed, {len(federation.executed)}"
        )
    entry, ledger = federation.executed[-1], federation.ledger
    basis = federation.lineage[:-1]
    shown = _shown(transcript, entry.branch, basis)
    delta, unit = ledger.budget.delta, ledger.budget.unit
    events = max((event.event_id for event in ledger.events()), default=0)
    unreleased = _unreleased(ledger, transcript)
    rounds = list(ledger_rounds(ledger, entry.branch, basis=basis, until=events, unreleased=unreleased))
    everybody = {name for _, charged in rounds for name in charged}
    accounts = Accounts.of(rounds, forgotten=everybody if concerned is None else concerned, retained=everybody)
    size = _units(entry, units, hidden=concerned is None)
    return Execution(
        window_id=window_id,
        branch=entry.branch,
        run_id=run_id_of(run_key, entry.branch, order).hex() if order else shown.run_id,
        method=entry.method,
        settings=dict(settings),
        guarantee=_guarantee(entry, accounts, size=size, basis=basis),
        confidentiality=_confidentiality(accounts, delta=delta, size=size),
        unit=unit.value,
        group_size=size,
        model_before=before.model,
        model_after=federation.state.model.digest.hex(),
        ledger_events=events,
        charges=tuple(accounts.to_json()),
        epsilon=tuple(
            {
                "subject": subject.value,
                "phase": phase.value,
                "view": View.EVERY_RELEASE.value,
                "value": accounts.epsilon(subject, phase, delta=delta, group_size=1),
                "delta": delta,
                "group_size": 1,
            }
            for subject in Subject
            for phase in Phase
        ),
        delta=delta,
        transcript_before=shown.before,
        transcript_root=shown.root,
        rounds=shown.rounds,
        wiped=tuple(wiped),
        missing=tuple(sorted(missing)),
        parameter_sets=tuple(sorted(shown.parameter_sets)),
        software=_software(),
        started=before.started,
        finished=int(time.time()) if finished is None else finished,
        opened=opened,
        order=order.hex(),
        run_key=run_key.hex(),
        continues_after=continues_after,
    )


def _units(entry: Executed, units: int | None, *, hidden: bool) -> int:
    own = entry.forgotten_units
    if isinstance(entry.guarantee, CertifiedModel):
        return own  # its noise was chosen for so many, and for no other number
    if isinstance(entry.request, SignedBatch):
        return own  # as the requests declare
    if units is None:
        # A silo's size tells whose it is.
        return 1 << (own - 1).bit_length() if hidden else own
    if units < own:
        raise ArgumentError("units", units, f"at least {own}, as many as were forgotten")
    return units


def _guarantee(entry: Executed, accounts: Accounts, *, size: int, basis: Lineage) -> dict[str, object]:
    guarantee, counted = entry.guarantee, None
    if isinstance(guarantee, Certified) and not isinstance(guarantee, CertifiedModel):
        counted = Counted.EVERYTHING if entry.chosen_late else Counted.BASIS
        value = accounts.forgetting(counted, delta=guarantee.delta, group_size=size)
        known = [one for one in (value, guarantee.epsilon) if one is not None]
        guarantee = replace(guarantee, epsilon=max(known) if len(known) == 2 else None, group_size=size)
    found: dict[str, object] = {
        "kind": guarantee.kind,
        "text": guarantee.describe(),
        "reason": guarantee.reason,
        "assumptions": list(getattr(guarantee, "assumptions", ())),
        "adaptive": entry.chosen_late,
        "basis": [{"branch": branch, "last_round": last} for branch, last in basis],
    }
    if isinstance(guarantee, Certified):
        found |= {
            "epsilon": guarantee.epsilon,
            "delta": guarantee.delta,
            "group_size": guarantee.group_size,
            "view": guarantee.view,
            "counted": None if counted is None else counted.value,
        }
    if isinstance(guarantee, CertifiedModel):
        found |= {"shift": guarantee.shift, "output_noise": guarantee.output_noise}
    return found


def _confidentiality(accounts: Accounts, *, delta: float, size: int) -> dict[str, dict[str, float | int | None]]:
    found: dict[str, dict[str, float | int | None]] = {}
    for group, ending in ((1, ""), (size, "_of_group")):
        if group == 1 and ending:
            continue
        values = (
            dict.fromkeys(("phase", "pair", "who_asked"))
            if group > _LARGEST_GROUP
            else accounts.confidentiality(delta=delta, group_size=group)
        )
        found |= {
            f"{name}{ending}": {"value": value, "delta": delta, "group_size": group} for name, value in values.items()
        }
    return found


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What a transcript shows of a branch's deletion."""

    run_id: str
    before: str
    root: str
    rounds: int
    parameter_sets: frozenset[str]


def _shown(path: Path, branch: str, basis: Lineage) -> _Shown:
    """Read a transcript's own words; the certificate's checker verifies them."""
    own: list[Mapping[str, Any]] = []
    head = _START
    try:
        with path.open(encoding="utf-8") as file:
            for text in file:
                line = json.loads(text)
                if line["branch"] == branch and line["phase"] == Phase.UNLEARNING.value:
                    own.append(line)
                elif not own and basis and line["branch"] == basis[-1][0]:
                    head = line["hash"]
        first = own[0]["previous"] if own else head
        return _Shown(
            run_id=own[0]["run_id"] if own else bytes(16).hex(),
            before=first,
            root=own[-1]["hash"] if own else head,
            rounds=len(own),
            parameter_sets=frozenset(line["parameter_set"] for line in own),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TranscriptError(f"{path} does not show the rounds of branch {branch!r}: {error!r}") from error


def _unreleased(ledger: PrivacyLedger, path: Path) -> frozenset[tuple[str, int]]:
    """Rounds that the ledger has as committed and no transcript has: they were given up after the roll."""
    shown: set[tuple[str, int]] = set()
    try:
        # The roster may have changed since: what came before is in the transcripts of the rosters before.
        for file in (path, *path.parent.glob(f"epochs/*/{path.name}")):
            with file.open(encoding="utf-8") as texts:
                lines = [json.loads(text) for text in texts]
            shown |= {(line["branch"], line["round"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TranscriptError(f"{path} does not show the rounds of the ledger: {error!r}") from error
    return frozenset((event.branch, event.round_number) for event in ledger.events()) - shown


def _software() -> dict[str, str]:
    versions = {name.replace("-", "_"): metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **versions}
