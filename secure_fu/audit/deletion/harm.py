"""Does deleting some expose the others? Membership of the retained units, before and after the deletion.

Carlini et al. 2022 (arXiv 2206.10469): taking out the most exposed records exposes the next ones. The retained units of
each run are set against the units that were never seen, by likelihood ratios learned on the other runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.areas import learned_areas
from secure_fu.audit.deletion.figures import share_interval
from secure_fu.audit.deletion.likelihood import Parted
from secure_fu.privacy import Interval, mean_interval

__all__ = ["RetainedHarm", "retained_harm"]


@dataclass(frozen=True, kw_only=True)
class RetainedHarm:
    """Areas of the membership attack on the retained.

    Attributes:
        before, after, retrained: mean areas for the model before, after the method, and trained anew.
        both: for whoever holds the models before and after: the mean of a record's two confidences is the signal.
        by_deletion: after minus before; above 0, the deletion made the retained stand out more.
        by_method: after minus retrained; above 0, the method did, compared with retraining.
        by_pair: both minus before; above 0, a second model adds to what the first one tells.
        runs: how many runs.
    """

    before: Interval
    after: Interval
    retrained: Interval
    both: Interval
    by_deletion: Interval
    by_method: Interval
    by_pair: Interval
    runs: int

    def to_json(self) -> dict[str, object]:
        """Every number of it."""
        names = ("before", "after", "retrained", "both", "by_deletion", "by_method", "by_pair")
        return {**{name: getattr(self, name).to_json() for name in names}, "runs": self.runs}


def retained_harm(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    retrained: NDArray[np.float64],
    parted: Parted,
    *,
    level: float,
) -> RetainedHarm:
    """Compare how far the retained stand out.

    Args:
        before, after, retrained: phi of each target record under the models, (R, t).
        parted: retained inside, never seen outside.
    """
    signals = (before, after, retrained, (before + after) / 2.0)
    first, then, anew, both = (learned_areas(signal, parted, [signal])[0] for signal in signals)
    return RetainedHarm(
        before=share_interval(first, level=level),
        after=share_interval(then, level=level),
        retrained=share_interval(anew, level=level),
        both=share_interval(both, level=level),
        by_deletion=mean_interval(then - first, level=level),
        by_method=mean_interval(then - anew, level=level),
        by_pair=mean_interval(both - first, level=level),
        runs=len(first),
    )
