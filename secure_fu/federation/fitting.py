"""Whether clients, plan and module fit each other, found out before anything travels."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import Records
from secure_fu.planning import Plan
from secure_fu.privacy import Unit

__all__ = ["check_cast", "check_fits"]


def check_fits(module: nn.Module, client: str, records: Records, *, file: Path | None = None) -> None:
    """Refuse, before anything travels, data that the module cannot take: inside a round it would count as zero.

    Args:
        file: where the records are from, if it is one.

    Raises:
        DataError: names the client, and shapes or numbers of classes.
    """
    if len(records) == 0:
        return
    place = "" if file is None else f" in {file}"
    parameter = next(module.parameters())
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(records.features[:1].to(parameter.dtype))
    except RuntimeError as error:  # torch's own: it names shapes and dtypes, no values
        wanted = _width(module)
        said = f"the model takes records of {wanted} features" if wanted else f"the model cannot take them: {error}"
        raise DataError(f"records of client {client!r}{place} have features of shape {records.shape}; {said}") from None
    finally:
        module.train(was_training)
    largest = int(records.labels.max())
    if logits.ndim != 2 or largest >= logits.shape[1]:
        raise DataError(
            f"records of client {client!r}{place} have labels up to {largest}; the module gives outputs of shape "
            f"{tuple(logits.shape)} for one record"
        )


def _width(module: nn.Module) -> int | None:
    """How many features the module's first layer takes, where that is what decides: a linear layer."""
    first = next((layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None), None)
    return first.in_features if isinstance(first, nn.Linear) else None


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
