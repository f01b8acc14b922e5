"""The simulation's evaluator: the one place that looks at client data to measure. It exists in simulations only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fu.audit import MembershipAudit, membership_audit
from secure_fu.learning import FlatModel, Records, accuracy, mean_loss
from secure_fu.protocol import ReleasedModel
from secure_fu.scenario import Scenario

__all__ = ["Evaluator", "Measurement"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What a model does on test, retained and forgotten records.

    Attributes:
        backdoor_success: share of triggered test records that take the trigger's label; None without a trigger.
        membership: the attack on forgotten against held-out records.
    """

    test_accuracy: float
    retain_accuracy: float | None
    forget_accuracy: float
    forget_loss: float
    backdoor_success: float | None
    membership: MembershipAudit


class Evaluator:
    """Measures models of one scenario.

    Args:
        scenario: with all clients' records.
        model: architecture.
    """

    def __init__(self, scenario: Scenario, model: FlatModel) -> None:
        marks = scenario.request.identify_all(scenario.clients)
        self._scenario = scenario
        self._model = model
        self.forgotten = _together([records.subset(marks[name]) for name, records in scenario.clients.items()])
        self.retained = _together([records.subset(~marks[name]) for name, records in scenario.clients.items()])
        self.forgotten_clients = tuple(name for name, mask in marks.items() if mask.any())

    def quick(self, model: ReleasedModel) -> tuple[float, float | None]:
        """Test accuracy and backdoor success, for curves."""
        vector = _parameters(model)
        trigger = self._scenario.trigger
        success = None if trigger is None else trigger.success_rate(self._model, vector, self._scenario.test)
        return accuracy(self._model, vector, self._scenario.test), success

    def measure(self, model: ReleasedModel) -> Measurement:
        """Everything that a row of the result needs."""
        vector = _parameters(model)
        test_accuracy, backdoor_success = self.quick(model)
        return Measurement(
            test_accuracy=test_accuracy,
            retain_accuracy=accuracy(self._model, vector, self.retained) if len(self.retained) else None,
            forget_accuracy=accuracy(self._model, vector, self.forgotten),
            forget_loss=mean_loss(self._model, vector, self.forgotten),
            backdoor_success=backdoor_success,
            membership=membership_audit(
                self._loaded(vector), members=self.forgotten, non_members=self._scenario.held_out
            ),
        )

    def _loaded(self, vector: NDArray[np.float64]) -> nn.Module:
        flat = FlatModel(self._model.module)
        flat.load(vector)
        return flat.module


def _parameters(model: ReleasedModel) -> NDArray[np.float64]:
    return model.vector.astype(np.float64)


def _together(parts: list[Records]) -> Records:
    return Records(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))
