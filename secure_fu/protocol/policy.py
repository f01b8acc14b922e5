"""A party's own pinned policy: what it demands of a round before it takes part."""

from __future__ import annotations

from dataclasses import dataclass

from secure_fu.errors import ArgumentError, PolicyRefusal
from secure_fu.privacy import Grid, NoiseShare, Unit, assured_clients
from secure_fu.protocol.messages import Header

__all__ = ["Policy"]

_ROUND_NUMBERS = 1 << 63  # what the ledger and the key-holder's record can hold


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Pinned by every client and by the key-holder; never taken from the server. It has no maximum for the saturation.

    Attributes:
        server, key_holder: names of the only parties in these roles that are listened to.
        roster_digest: hash of the roster, 32 bytes.
        unit: privacy unit that the party insists on.
        clip_norm: largest clip norm allowed.
        noise_multiplier: smallest noise multiplier allowed.
        sampling_rate: largest sampling rate allowed.
        minimum_cohort: smallest number of uploads that may be opened.
        colluders: clients (of those that upload) that are assumed to omit their noise or to pool what they know.
        purposes: purposes that the party serves.
        parameter_sets: parameter sets that the party encrypts or opens under.

    Raises:
        ArgumentError: a field is out of its domain, or fewer than two clients' noise is assured.
    """

    server: str
    key_holder: str
    roster_digest: bytes
    unit: Unit
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    minimum_cohort: int
    colluders: int
    purposes: frozenset[str]
    parameter_sets: frozenset[str]

    def __post_init__(self) -> None:
        if len(self.roster_digest) != 32:
            raise ArgumentError("roster_digest", f"{len(self.roster_digest)} bytes", "32 bytes")
        if not 0.0 < self.clip_norm < float("inf"):
            raise ArgumentError("clip_norm", self.clip_norm, "a positive finite number")
        if not 0.0 < self.noise_multiplier < float("inf"):
            raise ArgumentError("noise_multiplier", self.noise_multiplier, "a positive finite number")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ArgumentError("sampling_rate", self.sampling_rate, "a number in (0, 1]")
        assured_clients(self.minimum_cohort, self.colluders)

    def check(self, header: Header) -> None:
        """Compare a header with this policy.

        Raises:
            PolicyRefusal: names the first field that the policy forbids, its value and what would be allowed.
        """
        self._check_parties(header)
        self._check_privacy(header)
        grid = self.grid(header)
        if header.grid_step != grid.step:
            self._refuse("grid_step", header.grid_step, f"{grid.step!r}, the fine grid of this clip norm and length")

    def _check_parties(self, header: Header) -> None:
        if header.roster_digest != self.roster_digest:
            self._refuse("roster_digest", header.roster_digest.hex(), f"the pinned {self.roster_digest.hex()}")
        if header.committee != (self.key_holder,):
            self._refuse("committee", list(header.committee), f"the pinned key-holder {self.key_holder!r} alone")
        if header.purpose not in self.purposes:
            self._refuse("purpose", header.purpose, f"one of {sorted(self.purposes)}")
        if header.parameter_set not in self.parameter_sets:
            self._refuse("parameter_set", header.parameter_set, f"one of {sorted(self.parameter_sets)}")
        if header.round_number >= _ROUND_NUMBERS:
            self._refuse("round_number", header.round_number, "numbers below 2**63")
        if header.minimum_cohort < self.minimum_cohort:
            self._refuse("minimum_cohort", header.minimum_cohort, f"at least {self.minimum_cohort}")
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
        if header.length < 1:
            self._refuse("length", header.length, "at least 1")
        if not header.saturation >= header.clip_norm:
            self._refuse("saturation", header.saturation, f"at least the clip norm {header.clip_norm!r}")

    @staticmethod
    def _refuse(field: str, value: object, allowed: str) -> None:
        raise PolicyRefusal(f"header field {field} is {value!r}; this party's policy allows {allowed}")

    def grid(self, header: Header) -> Grid:
        """The grid on which every contribution to this round is rounded."""
        return Grid.fine(
            clip_norm=header.clip_norm,
            dimension=header.length,
            saturation=header.saturation,
            unit=Unit(header.unit),
        )

    def noise_share(self, header: Header) -> NoiseShare:
        """The noise that each client adds, so that minimum cohort - colluders shares make up the assured noise."""
        grid = self.grid(header)
        return NoiseShare(
            noise_multiplier=header.noise_multiplier,
            sensitivity=grid.sensitivity,
            step=grid.step,
            assured=assured_clients(header.minimum_cohort, self.colluders),
        )

    def largest_sum(self, header: Header, uploads: int) -> int:
        """Largest |coordinate| that an honest sum of `uploads` uploads has, except with probability 2**-64."""
        share = self.noise_share(header)
        tail = share.sum_tail_bound(uploads, header.length, log2_probability=-64)
        return uploads * self.grid(header).max_integer + tail
