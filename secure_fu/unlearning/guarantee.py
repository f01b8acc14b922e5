"""What an unlearning method guarantees about forgetting, as types: no method can claim what it does not compute."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Baseline", "Certified", "Exact", "Guarantee", "Heuristic"]


@dataclass(frozen=True)
class Exact:
    """The model's law is that of training without the forgotten data, with fresh noise.

    Attributes:
        reason: why, in plain words.
    """

    reason: str
    kind: str = "exact"

    def describe(self) -> str:
        return f"Exact: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Certified:
    """The model is (epsilon, delta)-close to one that never saw a group of `group_size` forgotten units.

    Attributes:
        epsilon: None when it is infinite.
        reason: where the bound comes from, in plain words.
        assumptions: under which it holds.
    """

    epsilon: float | None
    delta: float
    group_size: int
    reason: str
    assumptions: tuple[str, ...]
    kind: str = "certified"

    def describe(self) -> str:
        bound = "unbounded" if self.epsilon is None else f"{self.epsilon:.2f}"
        units = "one unit" if self.group_size == 1 else f"a group of {self.group_size} units"
        assumed = " ".join(f"Assumed: {assumption}." for assumption in self.assumptions)
        return f"Certified: epsilon {bound} at delta {self.delta:g} for {units}; {self.reason}. {assumed}"


@dataclass(frozen=True)
class Heuristic:
    """No proof of forgetting; only the audit speaks.

    Attributes:
        reason: what the method does instead, in plain words.
    """

    reason: str
    kind: str = "heuristic"

    def describe(self) -> str:
        return f"Heuristic: {self.reason}. No proof that the data is forgotten; only the audit speaks."


@dataclass(frozen=True)
class Baseline:
    """Not an unlearning method: what every heuristic has to beat.

    Attributes:
        reason: what it does, in plain words.
    """

    reason: str
    kind: str = "baseline"

    def describe(self) -> str:
        return f"Baseline: {self.reason}. It promises nothing."


Guarantee = Exact | Certified | Heuristic | Baseline
