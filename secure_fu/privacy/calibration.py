"""The smallest noise with which a planned run fits a privacy budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secure_fu.errors import ArgumentError, UnattainableEpsilonError
from secure_fu.privacy._checks import positive, positive_integer
from secure_fu.privacy.accounting import ORDERS, rdp, renyi_epsilon, renyi_limits
from secure_fu.privacy.discretisation import discretisation_divergence, divergence_limit
from secure_fu.privacy.events import SMALLEST_GRID_RATIO, GaussianSumEvent

__all__ = ["Calibration", "calibrate_noise"]

# Every number of three significant digits from 0.1 to 1000.
_CANDIDATES: tuple[float, ...] = (*(m / 10.0 ** (3 - e) for e in range(4) for m in range(100, 1000)), 1000.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a budget needs so that a planned run fits it.

    Args:
        noise_multiplier: the smallest that fits, in three significant digits.
        order: the Renyi order at which it fits: the budget's ``order``.
        epsilon: the planned run's epsilon by Renyi divergence; at most the epsilon that was asked for.
    """

    noise_multiplier: float
    order: float
    epsilon: float


def calibrate_noise(
    *,
    epsilon: float,
    delta: float,
    rounds: Mapping[float, int],
    sensitivity_in_steps: float,
    dimension: int,
    shares: int,
    group_size: int = 1,
) -> Calibration:
    """Find the smallest noise multiplier with which every planned round passes the ledger's Renyi filter.

    Guarantee: a ledger with ``Budget(epsilon=..., delta=..., order=result.order, group_size=...)`` admits all the
    rounds, and :func:`secure_fu.privacy.accounting.renyi_epsilon` of them is at most ``epsilon``. One noise
    multiplier serves all.

    Edge cases: from an epsilon of about 11 on, more epsilon can demand more noise, because what discreteness costs is
    charged through a total variation times e^epsilon.

    Args:
        epsilon: the budget, above 0.
        delta: between 0 and 1.
        rounds: planned number of rounds at each sampling rate, e.g. ``{0.25: 200}``; 1.0 is unamplified. Count every
            release that one unit can be in: training, and unlearning if the budget is to cover it.
        sensitivity_in_steps: one unit's L2 sensitivity over the grid step.
        dimension: number of coordinates of each sum.
        shares: number of assured noise shares.
        group_size: number of units protected together.

    Raises:
        ArgumentError: an argument is outside its domain.
        UnattainableEpsilonError: a noise multiplier of 1000 is still too small.
    """
    limits = renyi_limits(epsilon=epsilon, delta=delta)
    coarse = divergence_limit(epsilon=epsilon, delta=delta)
    scale = positive("sensitivity_in_steps", sensitivity_in_steps)
    size = positive_integer("group_size", group_size)
    if not rounds:
        raise ArgumentError("rounds", dict(rounds), "at least one sampling rate with its number of rounds")

    def plan(multiplier: float) -> dict[GaussianSumEvent, int]:
        return {
            GaussianSumEvent(
                noise_multiplier=multiplier,
                sampling_rate=rate,
                grid_ratio=multiplier * scale,
                dimension=dimension,
                shares=shares,
            ): positive_integer("rounds", count)
            for rate, count in rounds.items()
        }

    def best(multiplier: float) -> tuple[bool, int]:
        """Whether the plan fits, and the order (its index) at which it fits best."""
        events = plan(multiplier)
        room = limits - np.sum([count * rdp(event, size) for event, count in events.items()], axis=0)
        order = int(np.argmax(room))
        fine = sum(count * discretisation_divergence(event) for event, count in events.items()) <= coarse
        return bool(room[order] >= 0.0) and fine, order

    # Fewer than two grid steps of noise cannot be charged, so those candidates are out.
    first = bisect_left(_CANDIDATES, SMALLEST_GRID_RATIO / scale)
    found = bisect_left(range(first, len(_CANDIDATES)), True, key=lambda index: best(_CANDIDATES[index])[0])
    if first + found >= len(_CANDIDATES):
        raise UnattainableEpsilonError(
            f"epsilon {epsilon} at delta {delta} is out of reach for the rounds {dict(rounds)} even with a noise "
            f"multiplier of {_CANDIDATES[-1]:g}; plan fewer rounds, sample at a lower rate or allow a larger epsilon"
        )
    multiplier = _CANDIDATES[first + found]
    return Calibration(
        noise_multiplier=multiplier,
        order=ORDERS[best(multiplier)[1]],
        epsilon=renyi_epsilon(plan(multiplier), delta=delta, group_size=size),
    )
