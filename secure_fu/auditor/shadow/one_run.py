"""One shadow run: train, forget the same units with each method, train anew without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from secure_fu.audit.deletion import Part
from secure_fu.auditor.shadow.cast import ShadowCast, Targets, seed_of
from secure_fu.auditor.shadow.federation import ShadowFederation
from secure_fu.errors import GuaranteeError, MethodRefused, NonFiniteError
from secure_fu.learning import FlatModel, PerRecordGradients, one_thread
from secure_fu.unlearning import Retrain

__all__ = ["RETRAINED", "OneRun", "Runner"]

RETRAINED: Final = "retrained"
"""Name of the control: a second retraining, which must not be told from the first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OneRun:
    """What one run ended in: models of d parameters, float32.

    Attributes:
        before: trained with what is retained and what is to be forgotten, (d,).
        retrained: trained anew without the latter, (d,).
        after: by method, what it made of `before`; and a second retraining under :data:`RETRAINED`.
        refused: by method, why it made nothing.
        fullest: largest coordinate of a client's contribution over the saturation; above 1, it was clamped.
    """

    before: NDArray[np.float32]
    retrained: NDArray[np.float32]
    after: Mapping[str, NDArray[np.float32]]
    refused: Mapping[str, str]
    fullest: float


class Runner:
    """Makes single runs; a run is a function of cast, targets, seed, its number and its parts.

    Args:
        cast: who takes part.
        targets: units of the cast's clients.
        seed: of all runs.
    """

    def __init__(self, cast: ShadowCast, targets: Targets, *, seed: int) -> None:
        self._cast = cast
        self._targets = targets
        self._seed = seed
        self._model = FlatModel(cast.module)
        self._gradients = PerRecordGradients(self._model)

    def run(self, number: int, parts: NDArray[np.int8]) -> OneRun:
        """One run.

        Args:
            number: of the run, at least 0.
            parts: a :class:`~secure_fu.audit.deletion.Part` for each unit, shape (u,).

        Raises:
            NonFiniteError: training or retraining diverged.
            CohortTooSmall: too few clients answered.
        """
        seed = seed_of(f"run/{self._seed}/{number}")
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)  # of dropout, if there is any
            return self._run(seed, parts)

    def _run(self, seed: int, parts: NDArray[np.int8]) -> OneRun:
        cast = self._cast
        never = self._targets.marks(cast.clients, parts == Part.NEVER)
        forgotten = self._targets.marks(cast.clients, parts == Part.FORGOTTEN)
        federation = ShadowFederation(
            self._model,
            {name: records.subset(~never[name]) for name, records in cast.clients.items()},
            plan=cast.plan,
            seed=seed,
            joins=cast.joins,
            vanishes=_accidents(seed, cast.dropout),
            gradients=self._gradients,
        )
        marks = {name: mask[~never[name]] for name, mask in forgotten.items() if mask.any()}
        before = federation.train().model.vector
        retrained = federation.unlearn(marks, Retrain()).model.vector
        after = {RETRAINED: federation.unlearn(marks, Retrain()).model.vector}
        refused: dict[str, str] = {}
        for method in cast.audited:
            try:
                after[method.name] = federation.unlearn(marks, method).model.vector
            except (MethodRefused, GuaranteeError, NonFiniteError) as refusal:
                refused[method.name] = str(refusal)
        return OneRun(before=before, retrained=retrained, after=after, refused=refused, fullest=federation.fullest)


def _accidents(seed: int, dropout: float) -> Callable[[int, str], bool]:
    """Which clients fail to answer which rounds; the same in all branches of a run, as in a simulation."""

    def vanishes(round_number: int, client: str) -> bool:
        if dropout == 0.0:
            return False
        return seed_of(f"dropout/{seed}/{round_number}/{client}") < dropout * 2**128

    return vanishes
