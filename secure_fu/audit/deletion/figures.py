"""Figures over runs: a mean, its interval and the number of runs, against retraining in the same runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secure_fu.privacy import EquivalenceTest, Interval, equivalence_test, mean_interval

__all__ = ["Comparison", "compared", "share_interval"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A figure of a method beside the same figure of retraining, in the same runs.

    Attributes:
        name: of the figure.
        value: mean over runs for the method.
        retrained: mean over runs for the retrained models.
        gap: mean of the difference in each run, method minus retrained.
        runs: how many runs.
        test: whether the gap is within the margin, and whether it is there at all; None where no margin was stated.
    """

    name: str
    value: Interval
    retrained: Interval
    gap: Interval
    runs: int
    test: EquivalenceTest | None = None

    def to_json(self) -> dict[str, object]:
        """Every number of it; the test's are null where there is none."""
        test = self.test
        return {
            "name": self.name,
            "value": self.value.to_json(),
            "retrained": self.retrained.to_json(),
            "gap": self.gap.to_json(),
            "runs": self.runs,
            "margin": None if test is None else test.margin,
            "equivalent": None if test is None else test.equivalent,
            "p_equivalent": None if test is None else test.p_value,
            "p_different": None if test is None else test.p_different,
        }


def share_interval(values: NDArray[np.float64], *, level: float) -> Interval:
    """Mean of one share or area a run, with Student's interval cut to [0, 1]."""
    interval = mean_interval(values, level=level)
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


def compared(
    name: str,
    method: NDArray[np.float64],
    retrained: NDArray[np.float64],
    *,
    margin: float | None,
    level: float,
    shares: bool = True,
) -> Comparison:
    """Set one value a run against retraining's in the same run; with a margin, test for equivalence as well.

    Args:
        name: of the figure.
        method, retrained: one value a run, (R,).
        margin: gap within which the two count as equivalent; None for no test.
        level: of intervals and test.
        shares: whether values lie in [0, 1], so that their intervals do.
    """
    gaps = method - retrained
    alone = share_interval if shares else mean_interval
    return Comparison(
        name=name,
        value=alone(method, level=level),
        retrained=alone(retrained, level=level),
        gap=mean_interval(gaps, level=level),
        runs=len(gaps),
        test=None if margin is None else equivalence_test(gaps, margin=margin, level=level),
    )
