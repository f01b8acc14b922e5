"""A party's own pinned policy: what it demands of a round before it takes part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum

from secure_fu.crypto import CommitteeTerms, Roster
from secure_fu.errors import ArgumentError, PolicyRefusal, ProtocolError
from secure_fu.privacy import Budget, Phase, Unit, assured_clients
from secure_fu.protocol.header import GridKind, Header, grid_of, noise_share_of, phase_of

__all__ = ["Policy"]

_ROUND_NUMBERS = 1 << 63  # what the ledger and the key-holder's record can hold


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Pinned by every client and by whoever opens; never taken from the server.

    Attributes:
        server: name of the only server that is listened to.
        committee: names of those who open sums, sorted; a key-holder is a committee of one.
        terms: the committee's threshold, quorum and number of corrupt members.
        roster_digest: hash of the roster, 32 bytes.
        unit: privacy unit that the party insists on.
        budget: what each unit may spend in all; a client's own ledger holds it.
        clip_norm: largest clip norm allowed.
        saturation: largest saturation allowed.
        noise_multiplier: smallest noise multiplier allowed.
        sampling_rate: largest sampling rate allowed.
        minimum_cohort: smallest number of uploads that may be opened.
        colluders: smallest number of clients (of those that upload) that must be assumed to omit their noise or to
            pool what they know.
        purposes: purposes that the party serves.
        parameter_sets: parameter sets that the party encrypts or opens under.
        grids: how contributions may become integers.

    Raises:
        ArgumentError: a field is out of its domain, or fewer than two clients' noise is assured.
    """

    server: str
    committee: tuple[str, ...]
    terms: CommitteeTerms
    roster_digest: bytes
    unit: Unit
    budget: Budget
    clip_norm: float
    saturation: float
    noise_multiplier: float
    sampling_rate: float
    minimum_cohort: int
    colluders: int
    purposes: frozenset[str]
    parameter_sets: frozenset[str]
    grids: frozenset[str] = frozenset({GridKind.FINE.value})

    def __post_init__(self) -> None:
        if len(self.roster_digest) != 32:
            raise ArgumentError("roster_digest", f"{len(self.roster_digest)} bytes", "32 bytes")
        if list(self.committee) != sorted(set(self.committee)) or len(self.committee) != self.terms.members:
            raise ArgumentError(
                "committee",
                list(self.committee),
                f"{self.terms.members} (terms.members) sorted names without repeats",
            )
        for name in ("clip_norm", "saturation", "noise_multiplier"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise ArgumentError(name, value, "a positive finite number")
        if self.budget.unit is not self.unit:
            raise ArgumentError("budget.unit", self.budget.unit.value, f"the policy's own unit, {self.unit.value!r}")
        strangers = sorted(self.grids - {kind.value for kind in GridKind})
        if strangers or not self.grids:
            raise ArgumentError("grids", strangers, f"some of {[kind.value for kind in GridKind]}")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ArgumentError("sampling_rate", self.sampling_rate, "a number in (0, 1]")
        assured_clients(self.minimum_cohort, self.colluders)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that it demands, 32 bytes: equal for equal policies, however their files are written."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True).encode()).digest()

    def check_roster(self, roster: Roster) -> None:
        """Raise ArgumentError unless this is the pinned roster."""
        if roster.digest != self.roster_digest:
            raise ArgumentError("roster", roster.digest.hex(), f"the pinned roster, {self.roster_digest.hex()}")

    def check_cohort(self, header: Header, roster: Roster) -> None:
        """Raise PolicyRefusal unless all of the cohort are clients of the roster."""
        strangers = set(header.cohort) - roster.clients
        if strangers:
            self._refuse("cohort", sorted(strangers)[:3], "clients of the roster only")

    def check(self, header: Header) -> None:
        """Compare a header with this policy.

        Raises:
            PolicyRefusal: names the first field that the policy forbids, its value and what would be allowed.
        """
        self._check_parties(header)
        self._check_privacy(header)
        self._check_grid(header)

    def _check_parties(self, header: Header) -> None:
        if header.roster_digest != self.roster_digest:
            self._refuse("roster_digest", header.roster_digest.hex(), f"the pinned {self.roster_digest.hex()}")
        if header.committee != self.committee:
            self._refuse("committee", list(header.committee), f"the pinned {list(self.committee)}")
        for name in ("threshold", "quorum", "corrupt"):
            if getattr(header, name) != getattr(self.terms, name):
                self._refuse(name, getattr(header, name), f"the pinned {getattr(self.terms, name)}")
        if header.purpose not in self.purposes:
            self._refuse("purpose", header.purpose, f"one of {sorted(self.purposes)}")
        for prefix, phase in (("train", Phase.TRAINING), ("unlearn/", Phase.UNLEARNING)):
            if header.purpose.startswith(prefix) and header.phase != phase.value:
                self._refuse("phase", header.phase, f"{phase.value!r} for the purpose {header.purpose!r}")
        if header.parameter_set not in self.parameter_sets:
            self._refuse("parameter_set", header.parameter_set, f"one of {sorted(self.parameter_sets)}")
        if header.round_number >= _ROUND_NUMBERS:
            self._refuse("round_number", header.round_number, "numbers below 2**63")
        if header.colluders < self.colluders:
            self._refuse("colluders", header.colluders, f"at least {self.colluders}")
        if header.minimum_cohort < self.minimum_cohort:
            self._refuse("minimum_cohort", header.minimum_cohort, f"at least {self.minimum_cohort}")
        if header.minimum_cohort - header.colluders < 2:
            self._refuse("minimum_cohort", header.minimum_cohort, f"at least {header.colluders + 2}, colluders + 2")
        if len(header.cohort) < header.minimum_cohort:
            self._refuse("cohort", f"{len(header.cohort)} clients", f"at least {header.minimum_cohort}")
        if list(header.cohort) != sorted(set(header.cohort)):
            self._refuse("cohort", f"{len(header.cohort)} names", "sorted names without repeats")

    def _check_privacy(self, header: Header) -> None:
        if header.unit != self.unit.value:
            self._refuse("unit", header.unit, repr(self.unit.value))
        if not 0.0 < header.clip_norm <= self.clip_norm:
            self._refuse("clip_norm", header.clip_norm, f"positive and at most {self.clip_norm!r}")
        if not header.noise_multiplier >= self.noise_multiplier:
            self._refuse("noise_multiplier", header.noise_multiplier, f"at least {self.noise_multiplier!r}")
        for name, rate in (("retained_rate", header.retained_rate), ("forgotten_rate", header.forgotten_rate)):
            if not 0.0 <= rate <= self.sampling_rate:
                self._refuse(name, rate, f"between 0 and {self.sampling_rate!r}")
            if self.unit is Unit.CLIENT and rate not in (0.0, 1.0):
                self._refuse(name, rate, "0 or 1 for the client unit: who takes part is public")
        if header.retained_rate == header.forgotten_rate == 0.0:
            self._refuse("retained_rate", 0.0, "a rate above 0 for retained or for forgotten units; none is free")
        if header.length < 1:
            self._refuse("length", header.length, "at least 1")
        if not header.clip_norm <= header.saturation <= self.saturation:
            allowed = f"between the clip norm {header.clip_norm!r} and {self.saturation!r}"
            self._refuse("saturation", header.saturation, allowed)
        try:
            phase_of(header)
        except ProtocolError:
            self._refuse("phase", header.phase, "'training' or 'unlearning'")

    def _check_grid(self, header: Header) -> None:
        if header.grid not in self.grids:
            self._refuse("grid", header.grid, f"one of {sorted(self.grids)}")
        try:
            step = grid_of(header).step
            noise_share_of(header)
        except ArgumentError as error:
            raise PolicyRefusal(
                f"header fields grid and noise_multiplier are {header.grid!r} and {header.noise_multiplier!r}; "
                f"there is no such grid or noise: {error}"
            ) from None
        if header.grid_step != step:
            self._refuse(
                "grid_step", header.grid_step, f"{step!r}, the {header.grid} grid's for this clip norm and length"
            )

    @staticmethod
    def _refuse(field: str, value: object, allowed: str) -> None:
        raise PolicyRefusal(f"header field {field} is {value!r}; this party's policy allows {allowed}")


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
