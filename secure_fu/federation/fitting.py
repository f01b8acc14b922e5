"""Whether a client's records fit the federation's module, found out before anything travels."""

from __future__ import annotations

import torch
from torch import nn

from secure_fu.errors import DataError
from secure_fu.learning import Records

__all__ = ["check_fits"]


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
