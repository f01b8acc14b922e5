"""Scrub: pull the forgotten records towards what the model would say had it no idea of their class.

The loss is that of FedQUIT (Mora, Valerio, Bellavista, Passarella 2024, arXiv 2408.07587) with the current model as
its own teacher: the Kullback-Leibler divergence from the model's output with the true class removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from secure_fu.learning import client_update
from secure_fu.protocol import LocalTask, RoundTerms
from secure_fu.training import Silo, clipped_gradients
from secure_fu.training.local_updates import local_training
from secure_fu.unlearning.joint import JointRounds, JointTask

__all__ = ["Scrub", "true_class_removed"]


def true_class_removed(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(1 - p_y) per record: minus the log of the weight that the model gives to all but the true class y.

    Equal to KL(t || p), p the model's output and t = p / (1 - p_y) outside y, in value and in gradient p - t, whether
    or not t is held fixed. Bounded below, so that descending it comes to rest; ascending the training loss does not.

    Args:
        logits: shape (n, classes), classes >= 2.
        labels: true classes, int64, shape (n,).

    Returns:
        shape (n,), at least 0; tends to 0, and its gradient with it, where the model gives y no weight. Value and
        gradient are finite for all finite logits.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    log_odds = logits.gather(1, labels[:, None])[:, 0] - torch.logsumexp(others, dim=1)
    return -functional.logsigmoid(-log_odds)


class _ScrubTask(JointTask):
    def _of_units(
        self, sampled: NDArray[np.bool_], model: NDArray[np.float32], terms: RoundTerms
    ) -> NDArray[np.float64]:
        chosen = self._silo.records.subset(sampled)
        return clipped_gradients(self._silo, model, chosen, terms, loss=true_class_removed)

    def _of_client(self, model: NDArray[np.float32], terms: RoundTerms) -> NDArray[np.float64]:
        return -client_update(
            self._silo.model,
            model.astype(np.float64),
            self._silo.forgotten_records,
            training=local_training(terms),
            clip_norm=terms.clip_norm,
            seed=terms.round_number,
            loss=true_class_removed,
        )


@dataclass(frozen=True, kw_only=True)
class Scrub(JointRounds):
    """Descend, in the same rounds, the training loss of what is retained and :func:`true_class_removed` of the rest.

    The defaults were found on `digits-silos` and serve `mnist-silos` as they are.
    """

    rate_factor: float = 2.0

    name: ClassVar[str] = "scrub"
    title: ClassVar[str] = "Scrub"
    what: ClassVar[str] = (
        "pull the forgotten records towards the model's own output without their class, while the others train on"
    )

    def client_tasks(self, silo: Silo) -> Mapping[str, LocalTask]:
        """See :meth:`~secure_fu.unlearning.UnlearningMethod.client_tasks`."""
        return {self.purpose: _ScrubTask(silo)}
