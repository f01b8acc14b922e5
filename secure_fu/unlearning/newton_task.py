"""The clients' side of newton: sums of gradients, of Hessians, and of products of the curvature with a direction."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_fu.errors import ArgumentError
from secure_fu.learning import CurvatureSums, LinearHead, Records, triangle_length
from secure_fu.privacy import Unit
from secure_fu.protocol import RoundTerms
from secure_fu.protocol.sums import RandomStream
from secure_fu.training import Silo, clipped_gradients, sample_units
from secure_fu.training.tasks import check_client_rates

__all__ = ["NewtonSum", "NewtonTask", "second_bound"]


class NewtonSum(StrEnum):
    """What a round of the method sums; the setting `sum` of its header."""

    GRADIENT = "gradient"
    HESSIAN = "hessian"
    PRODUCT = "product"


class NewtonTask:
    """One sum over what the client retains, of whichever kind the settings name.

    Formal guarantees:
        Each retained record (for the group unit, group) adds a vector of norm at most the clip norm, and enters at the
        retained rate; forgotten ones enter none. What the model is changes neither.

    Args:
        silo: the client's private side.
    """

    def __init__(self, silo: Silo) -> None:
        self._silo = silo

    @cached_property
    def _curvature(self) -> CurvatureSums:
        return CurvatureSums(self._silo.model)

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        """See :class:`~secure_fu.protocol.LocalTask`.

        Raises:
            ArgumentError: the client unit, another kind of sum, or lengths that do not fit it.
            DataError: no group column for the group unit.
        """
        silo, dimension = self._silo, self._silo.model.dimension
        check_client_rates(terms)
        if terms.unit is Unit.CLIENT:
            raise ArgumentError("unit", terms.unit.value, "the record or group unit")
        kind = terms.settings.get("sum", NewtonSum.GRADIENT)
        if kind not in set(NewtonSum):
            raise ArgumentError("settings['sum']", kind, f"one of {', '.join(NewtonSum)}")
        sent = 2 * dimension if kind == NewtonSum.PRODUCT else dimension
        wanted = triangle_length(dimension) if kind == NewtonSum.HESSIAN else dimension
        if len(model) != sent or terms.length != wanted:
            raise ArgumentError(
                "model and length", (len(model), terms.length), f"{sent} and {wanted} coordinates for sums of {kind}"
            )
        chosen = sample_units(silo.records, terms.unit, terms.retained_rate, stream) & ~silo.forgotten
        records = silo.records.subset(chosen)
        if kind == NewtonSum.GRADIENT:
            return clipped_gradients(silo, model, records, terms)
        return self._second(kind, model.astype(np.float64), records, terms)

    def _second(
        self, kind: object, model: NDArray[np.float64], records: Records, terms: RoundTerms
    ) -> NDArray[np.float64]:
        curvature, dimension = self._curvature, self._silo.model.dimension
        by_group = terms.unit is Unit.GROUP
        # Where the bound of a head's Hessians is above the clip norm all are scaled down, so that none is distorted.
        clip = second_bound(curvature.head, terms.clip_norm)
        scale = min(1.0, terms.clip_norm / clip)
        if kind == NewtonSum.HESSIAN:
            return scale * curvature.hessian_sum(model, records, clip_norm=clip, by_group=by_group)
        vector, direction = model[:dimension], model[dimension:]
        return scale * curvature.product_sum(vector, direction, records, clip_norm=clip, by_group=by_group)


def second_bound(head: LinearHead | None, clip_norm: float) -> float:
    """Bound on a record's Hessian, and on its product with a direction of length 1; without a head, the clip norm."""
    return clip_norm if head is None else head.hessian_bound
