"""Asking for a guarantee, and being told which methods can give it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from secure_fu.errors import ArgumentError, CheckpointError, GuaranteeError, MethodRefused
from secure_fu.unlearning.claims import check_claim, enters
from secure_fu.unlearning.guarantee import Certified, Exact, Guarantee, satisfies
from secure_fu.unlearning.method import Deletion, UnlearningMethod

__all__ = ["Requirement"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """The least that a deletion has to guarantee.

    Attributes:
        kind: `Exact` or `Certified`; exact satisfies both. Each certificate has a view: that of `newton` is of who sees
            published models alone.
        epsilon: for `Certified`, the largest that will do; None for any finite one.

    Raises:
        ArgumentError: another kind, or an epsilon that is none.
    """

    kind: type[Guarantee]
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in (Exact, Certified):
            raise ArgumentError("kind", getattr(self.kind, "__name__", self.kind), "Exact or Certified")
        if self.epsilon is not None and not (self.kind is Certified and 0.0 <= self.epsilon < float("inf")):
            raise ArgumentError("epsilon", self.epsilon, "None, or for Certified a finite number that is not negative")

    def check(self, method: UnlearningMethod, deletion: Deletion, among: Iterable[UnlearningMethod]) -> None:
        """Refuse a method that does not promise enough.

        What it promises is taken as it is; see :func:`~secure_fu.unlearning.claims.check_claim`.

        Args:
            among: methods to name instead.

        Raises:
            GuaranteeError: names what the method promises, and which of the others can.
        """
        promised = method.guarantee(deletion)
        if satisfies(promised, self.kind, epsilon=self.epsilon):
            return
        able = sorted(_in_words(other) for other in among if not other.baseline and self._promised_by(other, deletion))
        instead = f"those that can, here: {', '.join(able)}" if able else "no registered method can, here"
        raise GuaranteeError(
            f"require is {self._describe()}; method {method.name!r} gives: {promised.describe()} Expected a method "
            f"that promises it; {instead}"
        )

    def check_reached(self, method: UnlearningMethod, reached: Guarantee) -> None:
        """Refuse the outcome of a run that did not reach enough, whatever the method promised.

        Raises:
            GuaranteeError: names what was reached.
        """
        if not satisfies(reached, self.kind, epsilon=self.epsilon):
            raise GuaranteeError(
                f"require is {self._describe()}; method {method.name!r} reached: {reached.describe()} Nothing of it "
                "may be published"
            )

    def _promised_by(self, method: UnlearningMethod, deletion: Deletion) -> bool:
        try:
            method.check(deletion)
            promised = method.guarantee(deletion)
            check_claim(method, promised, deletion, entered=enters(method.plan(deletion)))
            return satisfies(promised, self.kind, epsilon=self.epsilon)
        except (MethodRefused, CheckpointError, GuaranteeError):
            return False

    def _describe(self) -> str:
        limit = "" if self.epsilon is None else f" with epsilon at most {self.epsilon:g}"
        return f"{self.kind.__name__.lower()}{limit}"


def _in_words(method: UnlearningMethod) -> str:
    """A method's name, with the settings that are not its own."""
    own = type(method)()
    changed = [field.name for field in fields(method) if getattr(method, field.name) != getattr(own, field.name)]  # type: ignore[arg-type]
    settings = ", ".join(f"{name}={getattr(method, name)!r}" for name in changed)
    return f"{method.name}({settings})" if settings else method.name
