"""The header of a round, and what it implies: the grid, the noise, the cost, the committee, the ciphertexts' layout.

Everything here is a function of the header alone, so that server, clients and committee cannot read it differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated

from secure_fu.crypto import CommitteeTerms, Role
from secure_fu.crypto.wire import F64, U32, U64, Fixed, Sequence, Text, message
from secure_fu.errors import ArgumentError, ProtocolError
from secure_fu.privacy import GaussianSumEvent, Grid, NoiseShare, Phase, RotatedGrid, Subject, Unit, assured_clients

__all__ = [
    "MAX_COHORT",
    "MAX_COMMITTEE",
    "GridKind",
    "Header",
    "Settings",
    "canonical_settings",
    "charges_of",
    "committee_of",
    "grid_of",
    "largest_sum_of",
    "noise_share_of",
    "opener_role_of",
    "own_charge_of",
    "parse_settings",
    "phase_of",
]

Settings = Mapping[str, float | int | str | bool]

MAX_COHORT = 1_000_000
MAX_COMMITTEE = 1024


class GridKind(StrEnum):
    """How contributions become integers; the value is what travels."""

    FINE = "fine"
    ROTATED = "rotated"


def canonical_settings(settings: Settings) -> str:
    """The one JSON text of public task settings: sorted keys, no spaces, finite numbers only.

    Raises:
        ArgumentError: a value is not a finite number, a string or a boolean.
    """
    for key, value in settings.items():
        if not isinstance(value, (bool, int, float, str)):
            raise ArgumentError(f"settings[{key!r}]", type(value).__name__, "a finite number, a string or a boolean")
    try:
        return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise ArgumentError("settings", sorted(settings), "finite numbers only") from None


def parse_settings(text: str) -> Settings:
    """Read what :func:`canonical_settings` wrote.

    Raises:
        ProtocolError: the text is anything else.
    """
    try:
        settings = json.loads(text)
        if isinstance(settings, dict) and canonical_settings(settings) == text:
            return settings
    except (ValueError, RecursionError):  # ValueError: no JSON, or values that settings cannot have
        pass
    raise ProtocolError("header field settings is not the canonical text of finite numbers, strings and booleans")


@message("header")
@dataclass(frozen=True, kw_only=True)
class Header:
    """What one round is, in full; public, and signed by the server.

    Attributes:
        run_id: 16 bytes that name the run, or the branch of a simulation, and commit to what it is for; see
            :func:`~secure_fu.protocol.run_id.run_id_of`.
        round_number: strictly increasing within a run.
        purpose: `train`, `unlearn/<method>` or `statistic/<name>`.
        phase: for the ledgers, `training` or `unlearning`.
        previous_transcript: hash of the last :class:`Release` of the run, or of its starting point.
        model_digest: hash of the model that the clients compute on.
        parameter_set: of the encryption scheme.
        digit_bits: width of a coordinate of the sum inside a ciphertext of scheme `kahe`; 0 for the other schemes.
        length: coordinates of the sum.
        grid: how contributions become integers, a value of :class:`GridKind`.
        grid_step, saturation, clip_norm: in units of the released sum.
        unit: the privacy unit, a value of :class:`secure_fu.privacy.Unit`.
        noise_multiplier: standard deviation of the assured noise over the unit's sensitivity.
        retained_rate, forgotten_rate: largest probability with which one retained (forgotten) unit enters this sum; 1
            is no amplification by sampling, 0 means that units of that kind do not enter at all.
        settings: public settings of the task, canonical JSON.
        roster_digest: hash of the roster of identities.
        cohort: names of the clients invited, sorted.
        colluders: of the clients in the sum, how many may leave out their noise or give it away.
        minimum_cohort: fewer uploads than this, and the round ends without a release.
        committee: names of those who open the sum, sorted; a key-holder is a committee of one.
        threshold, quorum, corrupt: of the committee, see :class:`secure_fu.crypto.CommitteeTerms`.
    """

    run_id: Annotated[bytes, Fixed(16)]
    round_number: Annotated[int, U64]
    purpose: Annotated[str, Text(64)]
    phase: Annotated[str, Text(64)]
    previous_transcript: Annotated[bytes, Fixed(32)]
    model_digest: Annotated[bytes, Fixed(32)]
    parameter_set: Annotated[str, Text(64)]
    digit_bits: Annotated[int, U32]
    length: Annotated[int, U32]
    grid: Annotated[str, Text(64)]
    grid_step: Annotated[float, F64]
    saturation: Annotated[float, F64]
    clip_norm: Annotated[float, F64]
    unit: Annotated[str, Text(64)]
    noise_multiplier: Annotated[float, F64]
    retained_rate: Annotated[float, F64]
    forgotten_rate: Annotated[float, F64]
    settings: Annotated[str, Text(65536)]
    roster_digest: Annotated[bytes, Fixed(32)]
    cohort: Annotated[tuple[str, ...], Sequence(Text(64), MAX_COHORT)]
    colluders: Annotated[int, U32]
    minimum_cohort: Annotated[int, U32]
    committee: Annotated[tuple[str, ...], Sequence(Text(64), MAX_COMMITTEE)]
    threshold: Annotated[int, U32]
    quorum: Annotated[int, U32]
    corrupt: Annotated[int, U32]


def committee_of(header: Header) -> CommitteeTerms:
    """The committee's numbers.

    Raises:
        ArgumentError: they break 2 * quorum > members + corrupt or threshold > corrupt.
    """
    return CommitteeTerms(
        members=len(header.committee),
        threshold=header.threshold,
        quorum=header.quorum,
        corrupt=header.corrupt,
    )


def opener_role_of(header: Header) -> Role:
    """The role in which those who open the sum are in the roster."""
    return Role.MEMBER if header.digit_bits else Role.KEY_HOLDER


@lru_cache(maxsize=8)
def grid_of(header: Header) -> Grid | RotatedGrid:
    """The grid on which every contribution to this round is rounded.

    Raises:
        ArgumentError: there is no such grid.
    """
    unit = Unit(header.unit)
    if header.grid == GridKind.ROTATED:
        return RotatedGrid.for_sums(
            clip_norm=header.clip_norm,
            dimension=header.length,
            clients=len(header.cohort),
            noise_multiplier=header.noise_multiplier,
            assured=assured_clients(header.minimum_cohort, header.colluders),
            sum_bits=header.digit_bits,
            unit=unit,
        )
    return Grid.fine(clip_norm=header.clip_norm, dimension=header.length, saturation=header.saturation, unit=unit)


@lru_cache(maxsize=8)
def noise_share_of(header: Header) -> NoiseShare:
    """The noise that each client adds, so that minimum cohort - colluders shares make up the assured noise."""
    grid = grid_of(header)
    return NoiseShare(
        noise_multiplier=header.noise_multiplier,
        sensitivity=grid.sensitivity,
        step=grid.step,
        assured=assured_clients(header.minimum_cohort, header.colluders),
    )


def largest_sum_of(header: Header, uploads: int) -> int:
    """Largest |coordinate| that an honest sum of `uploads` uploads has, except with the grid's stated probability.

    For the fine grid that is 2**-64; for the rotated one see :meth:`secure_fu.privacy.RotatedGrid.sum_bound`. A sum
    that wraps is wrong, not unsafe.
    """
    return grid_of(header).sum_bound(uploads, noise_share_of(header))


def charges_of(header: Header) -> dict[Subject, GaussianSumEvent | None]:
    """What the round costs a forgotten and a retained unit; None for a kind that does not enter."""
    rates = {Subject.RETAINED: header.retained_rate, Subject.FORGOTTEN: header.forgotten_rate}
    return {subject: _charge(header, rate) if rate > 0.0 else None for subject, rate in rates.items()}


def own_charge_of(header: Header) -> GaussianSumEvent:
    """What the round costs any unit of a client at most, whatever the header calls the unit.

    A record is retained until somebody asks to forget it and forgotten afterwards. A ledger that told the two apart
    could be made to spend a record's budget twice.
    """
    return _charge(header, max(header.retained_rate, header.forgotten_rate))


def _charge(header: Header, rate: float) -> GaussianSumEvent:
    share = noise_share_of(header)
    return GaussianSumEvent(
        noise_multiplier=header.noise_multiplier,
        sampling_rate=rate,
        grid_ratio=share.total_grid_ratio,
        dimension=grid_of(header).encoded_dimension,
        shares=share.assured,
    )


def phase_of(header: Header) -> Phase:
    """The ledgers' phase.

    Raises:
        ProtocolError: the header names none.
    """
    if header.phase not in (Phase.TRAINING.value, Phase.UNLEARNING.value):
        raise ProtocolError(f"header field phase is {header.phase!r}; expected 'training' or 'unlearning'")
    return Phase(header.phase)
