"""What an unlearning method guarantees about forgetting, as types: no method can claim what it does not compute.

In the package :class:`~secure_fu.unlearning.rerun.Rerun` makes :class:`Exact` and :class:`Certified`, from the
checkpoint that a run starts from and from the ledger. :class:`CertifiedModel` is made from a measured residual, by
:class:`~secure_fu.unlearning.newton.Newton`. Methods that steer the model instead are typed to say :class:`Heuristic`.
Whoever makes one, :mod:`secure_fu.unlearning.claims` holds it against the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "EVERY_RELEASE",
    "NOT_ADAPTIVE",
    "PUBLISHED_MODEL",
    "Baseline",
    "Certified",
    "CertifiedModel",
    "Exact",
    "Guarantee",
    "Heuristic",
    "satisfies",
]

NOT_ADAPTIVE = "the request and the settings of the run were not chosen after seeing models that the data had a part in"
"""Under which requests a claim holds: adaptive ones weaken it (Gupta et al. 2021, arXiv 2106.04378)."""

EVERY_RELEASE = "every release"
"""The view of somebody who sees every sum and model of the run, the server included."""

PUBLISHED_MODEL = "the published models"
"""The view of somebody who sees the published models and none of the sums behind them: not that of the server."""


def _assumed(assumptions: tuple[str, ...]) -> str:
    return "".join(f" Assumed: {assumption}." for assumption in assumptions)


@dataclass(frozen=True)
class Exact:
    """The model's law is that of training without the forgotten data, with fresh noise, under the branch's cohort.

    The cohort is public. Who joined late takes part from the branch's first round; who leaves still adds its noise
    share.

    Attributes:
        reason: why, in plain words.
        assumptions: under which it holds.
    """

    reason: str
    assumptions: tuple[str, ...]
    kind: str = "exact"

    def describe(self) -> str:
        """The claim in plain words."""
        return f"Exact: {self.reason}.{_assumed(self.assumptions)}"


@dataclass(frozen=True, kw_only=True)
class Certified:
    """The model is (epsilon, delta)-close to one that never saw a group of `group_size` forgotten units.

    Attributes:
        epsilon: None when it is infinite.
        reason: where the bound comes from, in plain words.
        assumptions: under which it holds.
        view: whose.
    """

    epsilon: float | None
    delta: float
    group_size: int
    reason: str
    assumptions: tuple[str, ...]
    view: str = EVERY_RELEASE
    kind: str = "certified"

    def describe(self) -> str:
        """The claim in plain words."""
        bound = "unbounded" if self.epsilon is None else f"{self.epsilon:.2f}"
        units = "one unit" if self.group_size == 1 else f"a group of {self.group_size} units"
        claim = f"epsilon {bound} at delta {self.delta:g} for {units}, in the view of {self.view}"
        return f"Certified: {claim}; {self.reason}.{_assumed(self.assumptions)}"


@dataclass(frozen=True, kw_only=True)
class CertifiedModel(Certified):
    """Certified by noise on the published model, whose mean is a bounded distance from that of retraining.

    Attributes:
        shift: bound on that distance, L2.
        output_noise: standard deviation of each coordinate.
    """

    shift: float
    output_noise: float
    view: str = PUBLISHED_MODEL


@dataclass(frozen=True)
class Heuristic:
    """No proof of forgetting; only the audit speaks.

    Attributes:
        reason: what the method does instead, in plain words.
    """

    reason: str
    kind: str = "heuristic"

    def describe(self) -> str:
        """The claim in plain words."""
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
        """The claim in plain words."""
        return f"Baseline: {self.reason}. It promises nothing."


Guarantee = Exact | Certified | Heuristic | Baseline


def satisfies(found: Guarantee, wanted: type[Guarantee], *, epsilon: float | None = None) -> bool:
    """Whether a guarantee is at least of the kind wanted: exact is above certified, certified above heuristic.

    Args:
        epsilon: for certified ones, the largest that will do; None for any finite one.
    """
    if isinstance(found, Exact):
        return wanted is not Baseline
    if isinstance(found, Certified):
        enough = found.epsilon is not None and (epsilon is None or found.epsilon <= epsilon)
        return wanted is Heuristic or (issubclass(wanted, Certified) and enough and isinstance(found, wanted))
    return isinstance(found, wanted)
