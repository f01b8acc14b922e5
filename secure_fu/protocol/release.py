"""What a secure sum has released: the only values derived from client data that may be logged, saved or sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto.wire import encode
from secure_fu.errors import ArgumentError
from secure_fu.protocol.header import Header, grid_of
from secure_fu.protocol.messages import Release, digest

__all__ = ["ReleasedModel", "ReleasedSum", "released_sum"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedSum:
    """One noisy sum, opened and scaled back. Made by the server's release step only.

    Attributes:
        values: shape (d,), float64, read-only, in units of the contribution.
        purpose: of the round.
        round_number: of the round.
        participants: names of the clients whose uploads are in the sum, sorted.
        transcript: hash of the release, 32 bytes; the transcript's head after this round.
    """

    values: NDArray[np.float64]
    purpose: str
    round_number: int
    participants: tuple[str, ...]
    transcript: bytes

    def __post_init__(self) -> None:
        self.values.setflags(write=False)


def released_sum(header: Header, release: Release, integers: NDArray[np.int64]) -> ReleasedSum:
    """Scale an opened sum back; the same values, bit for bit, whenever it is done.

    Args:
        header: of the release.
        release: signed.
        integers: the opened sum, in steps of the header's grid.
    """
    return ReleasedSum(
        values=grid_of(header).decode(integers, seed=release.announcement.header_digest),
        purpose=header.purpose,
        round_number=header.round_number,
        participants=release.roll.participants,
        transcript=digest(encode(release)),
    )


@dataclass(frozen=True, eq=False)
class ReleasedModel:
    """A model that is a function of released sums and public constants.

    Attributes:
        vector: shape (d,), float32, read-only.
    """

    vector: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vector.dtype != np.float32 or self.vector.ndim != 1 or self.vector.size == 0:
            raise ArgumentError("vector", f"{self.vector.dtype} {self.vector.shape}", "float32 of shape (d,), d >= 1")
        if not np.isfinite(self.vector).all():
            raise ArgumentError("vector", "non-finite coordinates", "finite coordinates")
        self.vector.setflags(write=False)

    @classmethod
    def public(cls, vector: NDArray[np.floating]) -> ReleasedModel:
        """A starting point that depends on no client's data."""
        return cls(np.array(vector, dtype=np.float32))

    def derived(self, vector: NDArray[np.floating], *sources: ReleasedSum | ReleasedModel) -> ReleasedModel:
        """Post-processing: a new model, computed from this one, from `sources` and from public constants alone.

        Args:
            vector: shape (d,) as this model; rounded to float32.
        """
        if vector.shape != self.vector.shape:
            raise ArgumentError("vector", vector.shape, f"shape {self.vector.shape}")
        for source in sources:
            if not isinstance(source, (ReleasedSum, ReleasedModel)):
                raise ArgumentError("sources", type(source).__name__, "ReleasedSum or ReleasedModel")
        return ReleasedModel(np.array(vector, dtype=np.float32))

    @property
    def dimension(self) -> int:
        """Number of coordinates, d."""
        return int(self.vector.size)

    def encode(self) -> bytes:
        """The vector as float32, little endian."""
        return self.vector.astype("<f4").tobytes()

    @property
    def digest(self) -> bytes:
        """SHA-256 of :meth:`encode`, 32 bytes."""
        return hashlib.sha256(self.encode()).digest()
