"""Whether clients, plan and module fit each other, found out before anything travels."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import Records
from secure_fu.planning import Plan
from secure_fu.privacy import Unit

__all__ = ["check_cast", "check_fits"]


def check_fits(module: nn.Module, client: str, records: Records) -> None:
    """Refuse, before anything travels, data that the module cannot take: inside a round it would count as zero.

    Raises:
        DataError: names the client, and shapes or numbers of classes.
    """
    if len(records) == 0:
        return
    parameter = next(module.parameters())
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(records.features[:1].to(parameter.dtype))
    except RuntimeError as error:  # torch's own: it names shapes and dtypes, no values
        raise DataError(f"records of client {client!r} have features of shape {records.shape}; {error}") from None
    finally:
        module.train(was_training)
    largest = int(records.labels.max())
    if logits.ndim != 2 or largest >= logits.shape[1]:
        raise DataError(
            f"records of client {client!r} have labels up to {largest}; the module gives outputs of shape "
            f"{tuple(logits.shape)} for one record"
        )


def check_cast(plan: Plan, clients: Collection[str], joins: Collection[str], *, present: int) -> None:
    """Check a plan against who takes part.

    Args:
        clients: names.
        joins: names of those that join late.
        present: how many are there in the first round.

    Raises:
        ArgumentError: somebody joins who is no client, the client unit without settings of local training, or a minimum
            cohort that nobody can reach at first.
    """
    for name in joins:
        if name not in clients:
            raise ArgumentError("joins", name, f"names among the {len(clients)} clients")
    missing = {"epochs", "batch_size", "learning_rate"} - set(plan.recipe.local)
    if plan.recipe.unit is Unit.CLIENT and missing:
        raise ArgumentError("plan.recipe.local", dict(plan.recipe.local), f"also {', '.join(sorted(missing))}")
    if plan.minimum_cohort > present:
        raise ArgumentError("plan.minimum_cohort", plan.minimum_cohort, f"at most {present}, who take part at first")
