"""Secure sums that answer what a method has planned, and nothing beyond."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, replace

from secure_fu.errors import GuaranteeError, ProtocolError
from secure_fu.protocol import ReleasedModel, ReleasedSum, SecureSums, SumRequest
from secure_fu.unlearning import PlannedRounds

__all__ = ["PlannedSums"]


class PlannedSums:
    """Rounds as they were planned, in any order.

    Formal guarantees:
        A request is passed on only if its terms, which decide what it charges, are those of a planned round that was
        not run yet. So a run costs at most what was said beforehand, if every round is answered at the first asking.

    Args:
        inner: answers.
        planned: what the method said beforehand.
        method: its name.
        start: the model that the first request has to be about; None for any.
    """

    def __init__(
        self, inner: SecureSums, planned: Iterable[PlannedRounds], *, method: str, start: ReleasedModel | None
    ) -> None:
        self._inner = inner
        self._left: Counter[PlannedRounds] = Counter()
        for rounds in planned:
            self._left[replace(rounds, count=1)] += rounds.count
        self._planned = self._left.total()
        self._ran: Counter[PlannedRounds] = Counter()
        self._method = method
        self._start = start
        self.began_with: ReleasedModel | None = None
        """The model that the first round was about; None as long as none was answered."""

    @property
    def ran(self) -> tuple[PlannedRounds, ...]:
        """The rounds that were answered, whether now or before an interruption."""
        return tuple(replace(rounds, count=count) for rounds, count in self._ran.items())

    @property
    def stopped_early(self) -> bool:
        """Whether fewer rounds were run than were planned."""
        return self._left.total() > 0

    def secure_sum(self, request: SumRequest) -> ReleasedSum:
        """Run one round; see :class:`~secure_fu.protocol.SecureSums`.

        Raises:
            ProtocolError: no such round is left in the plan; nothing was asked or charged.
            GuaranteeError: the first round is about another model than the one that the method's claim starts from;
                nothing was asked or charged.
        """
        asked = _terms(request)
        if not self._left[asked]:
            raise ProtocolError(
                f"method {self._method!r} asks for round {self._ran.total() + 1}, and {self._why_not(asked)}; expected "
                "the rounds that its plan says, which is what was reckoned with"
            )
        if self._start is not None and self.began_with is None and request.model.digest != self._start.digest:
            raise GuaranteeError(
                f"method {self._method!r} claims that nothing is left of the data, and its first round is about "
                "another model than its start_state; expected that one"
            )
        released = self._inner.secure_sum(request)
        if self.began_with is None:
            self.began_with = request.model
        self._left[asked] -= 1
        self._ran[asked] += 1
        return released

    def _why_not(self, asked: PlannedRounds) -> str:
        left = [rounds for rounds, count in self._left.items() if count]
        if not left:
            return f"its plan has {self._planned}"
        nearest = min(left, key=lambda rounds: len(_differing(rounds, asked)))
        names = _differing(nearest, asked)
        said = ", ".join(f"{name} {getattr(asked, name)!r}, planned {getattr(nearest, name)!r}" for name in names)
        return f"no round of these terms is left in its plan: {said}"


def _terms(request: SumRequest) -> PlannedRounds:
    return PlannedRounds(
        count=1,
        retained_rate=request.retained_rate,
        forgotten_rate=request.forgotten_rate,
        noise_multiplier=request.noise_multiplier,
        clip_norm=request.clip_norm,
        saturation=request.saturation,
        length=request.model.dimension if request.length is None else request.length,
    )


def _differing(one: PlannedRounds, other: PlannedRounds) -> list[str]:
    return [item.name for item in fields(PlannedRounds) if getattr(one, item.name) != getattr(other, item.name)]
