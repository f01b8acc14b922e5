"""A client's own memory: which rounds it has answered, and what they cost. It trusts no server with either."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from secure_fu.errors import AnsweredLater, BudgetExceededError, PolicyRefusal, RecordError
from secure_fu.privacy import Budget, GaussianSumEvent, Phase, Spending, Subject, check_round
from secure_fu.protocol.durable import DurableFile
from secure_fu.protocol.header import Header, own_charge_of, phase_of

__all__ = ["ClientRecord"]

_KIND = 1
_SCHEMA = (
    """
CREATE TABLE round (
    client TEXT NOT NULL,
    run_id BLOB NOT NULL,
    round_number INTEGER NOT NULL,
    header_digest BLOB NOT NULL,
    phase TEXT NOT NULL,
    charge TEXT NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (client, run_id, round_number)
) STRICT, WITHOUT ROWID
""",
)
# All that a client has ever answered counts against its budget, whatever run the server calls it.
_ALL_RUNS = "all runs"


class ClientRecord:
    """Which rounds were answered, and their cost, for one client or for all clients of a simulation.

    Formal guarantees:
        What :meth:`accept` returns from is on disk: after a kill at any moment the client neither answers that round
        (or an older one of the run) again nor forgets its cost. So no key and no noise is ever drawn twice for a round.
        The charge is made before the upload leaves and never given back, whatever the server says became of the round,
        and over all runs: a server gains nothing from a new run id. Rows carry a checksum, so that what the disk has
        changed is found when the file is opened.

    Args:
        path, new: as :class:`~secure_fu.protocol.durable.DurableFile`.

    Raises:
        RecordError: the file cannot be used, or its rows make no sense.
    """

    def __init__(self, path: Path | None = None, *, new: bool = False) -> None:
        self._file = DurableFile(path, new=new, kind=_KIND, schema=_SCHEMA)
        self._spending = Spending()
        self._last: dict[tuple[str, bytes], int] = {}
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        rows = self._file.read("SELECT client, run_id, round_number, header_digest, phase, charge, checksum FROM round")
        try:
            for client, run_id, number, header_digest, phase, charge, checksum in rows:
                if checksum != _checksum(client, run_id, number, header_digest, phase, charge):
                    raise RecordError(
                        f"{self._file.path} is damaged: a round of client {client!r} is not what was written; whoever "
                        "it belongs to needs new keys"
                    )
                self._note(client, run_id, number, Phase(phase), GaussianSumEvent(**json.loads(charge)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecordError(f"{self._file.path} cannot be used as a client's record: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Accept for several clients with one sync; no upload may leave before the block ends.

        When it fails, the file has none of it; this object goes on as if the rounds were answered.
        """
        with self._file.together():
            yield

    def fork(self, path: Path) -> ClientRecord:
        """A record that goes on from this one, for a simulation that tries several futures. A client never has two.

        Raises:
            RecordError: the file exists or cannot be written.
        """
        self._file.copy_to(path)
        return ClientRecord(path)

    def accept(self, client: str, header: Header, header_digest: bytes, *, budget: Budget) -> None:
        """Charge a round and count it as answered; durable on return.

        Args:
            client: name of the client.
            header: of the round, checked against the client's policy.
            header_digest: 32 bytes.
            budget: what each of the client's units may spend.

        Raises:
            AnsweredLater: the round is not newer than the last one answered in its run.
            PolicyRefusal: the round does not fit the budget; nothing is charged.
        """
        last = self._last.get((client, header.run_id), -1)
        if header.round_number <= last:
            raise AnsweredLater(f"round_number is {header.round_number}; expected one after {last}, the last answered")
        phase, charge = phase_of(header), own_charge_of(header)
        try:
            check_round(
                budget,
                self._spending,
                lineages={_ALL_RUNS: (_ALL_RUNS,)},
                round_name=f"round {header.round_number}",
                phase=phase,
                charges=_any_unit(charge),
                cohort=(client,),
            )
        except BudgetExceededError as error:
            raise PolicyRefusal(f"the client's own ledger refuses: {error}") from error
        row = (client, header.run_id, header.round_number, header_digest, phase.value, _text(charge))
        # In this order, so that whatever fails or interrupts, memory may be ahead of the file and never behind it.
        self._note(client, header.run_id, header.round_number, phase, charge)
        self._file.write(
            "INSERT INTO round VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, _checksum(*row)),
        )

    def rounds(self, client: str) -> int:
        """How many rounds a client has answered."""
        ((count,),) = self._file.read("SELECT COUNT(*) FROM round WHERE client = ?", (client,))
        return int(count)

    def newest(self, run_id: bytes) -> int:
        """Number of the newest round of a run that any client has answered; -1 before the first."""
        return max((number for (_, run), number in self._last.items() if run == run_id), default=-1)

    def _note(
        self,
        client: str,
        run_id: bytes,
        number: int,
        phase: Phase,
        charge: GaussianSumEvent,
    ) -> None:
        key = (client, run_id)
        self._last[key] = max(number, self._last.get(key, -1))
        self._spending.add(branch=_ALL_RUNS, phase=phase, charges=_any_unit(charge), clients=(client,), rounds=1)


def _checksum(client: str, run_id: bytes, number: int, header_digest: bytes, phase: str, charge: str) -> bytes:
    parts = (client.encode(), run_id, str(number).encode(), header_digest, phase.encode(), charge.encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _text(charge: GaussianSumEvent) -> str:
    return json.dumps(dataclasses.asdict(charge))


def _any_unit(charge: GaussianSumEvent) -> dict[Subject, GaussianSumEvent | None]:
    # One account for all units, whatever a round calls them; the subject under which it is kept says nothing.
    return {Subject.RETAINED: charge, Subject.FORGOTTEN: None}
