"""The one primitive that every algorithm is written against: ask for a secure sum, get back what it released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.privacy import Phase, Unit
from secure_fu.protocol.header import Settings, canonical_settings
from secure_fu.protocol.release import ReleasedModel, ReleasedSum

__all__ = ["LocalTask", "RandomStream", "RoundTerms", "SecureSums", "SumRequest"]


class RandomStream(Protocol):
    """Uniform random words that are never handed out twice."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` fresh words, shape (count,), uint64."""


@dataclass(frozen=True, kw_only=True)
class SumRequest:
    """What an algorithm asks of one round. Public; the server turns it into a header.

    Attributes:
        purpose: task that the clients run: `train`, `unlearn/<method>` or `statistic/<name>`.
        phase: for the ledger, training or unlearning.
        model: what the clients compute on: the model, for some tasks followed by a direction of the same length.
        unit: privacy unit of the bound.
        clip_norm: L2 bound on one unit's contribution.
        saturation: bound on each coordinate of one client's contribution.
        noise_multiplier: standard deviation of the assured noise over the unit's sensitivity.
        retained_rate, forgotten_rate: sampling rates, see :class:`~secure_fu.protocol.messages.Header`.
        settings: public settings of the task.
        length: coordinates of the sum; as many as `model` has, unless given.

    Raises:
        ArgumentError: settings hold something else than finite numbers, strings and booleans, or `length` is below 1.
    """

    purpose: str
    phase: Phase
    model: ReleasedModel
    unit: Unit
    clip_norm: float
    saturation: float
    noise_multiplier: float
    retained_rate: float
    forgotten_rate: float
    settings: Settings = field(default_factory=dict)
    length: int | None = None

    def __post_init__(self) -> None:
        canonical_settings(self.settings)
        if self.length is not None and self.length < 1:
            raise ArgumentError("length", self.length, "at least 1 coordinate")
        if self.phase is Phase.BOTH:
            raise ArgumentError("phase", self.phase, "Phase.TRAINING or Phase.UNLEARNING")


@dataclass(frozen=True, kw_only=True)
class RoundTerms:
    """What a client's task is told about the round: the public terms it has to keep.

    Attributes: as in :class:`SumRequest`.
    """

    purpose: str
    round_number: int
    unit: Unit
    clip_norm: float
    retained_rate: float
    forgotten_rate: float
    settings: Mapping[str, float | int | str | bool]
    length: int


class LocalTask(Protocol):
    """A client's own code for one purpose. The only place where an algorithm meets data."""

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """The sum over this client's units of contributions with L2 norm at most `terms.clip_norm`.

        Args:
            model: what the server sent, float32; shape (d,) for a model alone. A task checks it: another length is a
                mistake, or a server that tries something.
            terms: of the round.
            stream: for secret sampling; fresh for this round.

        Returns:
            shape (terms.length,), float64, before saturation, rounding and noise.
        """


class SecureSums(Protocol):
    """All that a training or unlearning algorithm can reach of its clients."""

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        """Run one round.

        Raises:
            BudgetExceededError: the ledger refuses; nothing was asked of any client.
            RoundAborted: too few clients took part, or the sum did not open.
        """
