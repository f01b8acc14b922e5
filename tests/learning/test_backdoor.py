from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import FlatModel, Records, Trigger


class ByTopLeft(nn.Module):
    """Says class 2 when the top left pixel is one, and class 1 otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner = x.flatten(1)[:, 0] + self.bias
        return torch.stack([torch.zeros_like(corner), 1.0 - corner, corner], dim=1)


def make_records() -> Records:
    rng = np.random.default_rng(0)
    return Records.from_arrays(rng.uniform(0, 0.4, (12, 2, 3, 4)), np.arange(12) % 3, [str(i) for i in range(12)])


def test_top_row_of_every_channel() -> None:
    records = make_records()
    trigger = Trigger.top_row(records.shape, target=2, value=0.9)
    assert trigger.description == "top row of pixels set to 0.9"
    stamped = trigger.stamp(records)
    assert (stamped.features[:, :, 0, :] == np.float32(0.9)).all()
    torch.testing.assert_close(stamped.features[:, :, 1:, :], records.features[:, :, 1:, :])
    assert stamped.labels.tolist() == records.labels.tolist()
    poisoned = trigger.poison(records)
    torch.testing.assert_close(poisoned.features, stamped.features)
    assert poisoned.labels.tolist() == [2] * 12
    assert poisoned.groups is records.groups
    assert records.features.max() < 0.5  # the records themselves are left alone


def test_success_counts_other_classes_only() -> None:
    model, records = FlatModel(ByTopLeft()), make_records()
    vector = np.zeros(1)
    assert Trigger.top_row(records.shape, target=2).success_rate(model, vector, records) == 1.0
    assert Trigger(positions=(5,), value=1.0, target=2, description="").success_rate(model, vector, records) == 0.0
    assert Trigger(positions=(5,), value=1.0, target=1, description="").success_rate(model, vector, records) == 1.0
    only = records.subset((records.labels == 2).numpy())
    with pytest.raises(DataError, match="target label 2"):
        Trigger.top_row(records.shape, target=2).success_rate(model, vector, only)


def test_bad_arguments() -> None:
    for positions, value, target in (
        ((), 1.0, 0),
        ((1, 1), 1.0, 0),
        ((-1,), 1.0, 0),
        ((0,), np.nan, 0),
        ((0,), 1.0, -1),
    ):
        with pytest.raises(ArgumentError):
            Trigger(positions=positions, value=value, target=target, description="")
    for shape in ((4,), (1, 2, 3, 4), (0, 4)):
        with pytest.raises(ArgumentError):
            Trigger.top_row(shape, target=0)
    with pytest.raises(ArgumentError, match="24 features"):
        Trigger(positions=(24,), value=1.0, target=0, description="").stamp(make_records())
