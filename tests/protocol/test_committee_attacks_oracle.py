"""A malicious server against the bound on one record: a model that overflows at one certain record."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from committee_attacker import Attacker, noise_in
from committee_machines import announcement_in
from torch import nn

from secure_fu.learning import FlatModel, PerRecordGradients, Records
from secure_fu.protocol import ReleasedModel
from secure_fu.protocol.header import grid_of

HIDDEN = 9


def network(*, trap: bool) -> nn.Sequential:
    """Ten layers; as a trap, one unit of the first fires at the target record alone, and the rest overflow then."""
    widths = [8, *[2] * HIDDEN, 2]
    linear = [nn.Linear(before, after) for before, after in pairwise(widths)]
    if trap:
        with torch.no_grad():
            for layer in linear:
                layer.weight.zero_()
                layer.bias.zero_()
                layer.weight[0, 0] = 3e38
            linear[0].weight[0] = 1e37 * torch.tensor([1.0] * 4 + [-1.0] * 4)
            linear[0].bias[0] = -3.9e37
    layers = [part for layer in linear for part in (layer, nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Trains:
    """A client's code that sums its records' clipped gradients, all of them."""

    def __init__(self, features: torch.Tensor) -> None:
        self._gradients = PerRecordGradients(FlatModel(network(trap=False)))
        self._records = Records(features=features, labels=torch.ones(len(features), dtype=torch.int64))

    def contribution(self, model, terms, stream):
        return self._gradients.clipped_sum(model.astype(np.float64), self._records, clip_norm=terms.clip_norm)


TRAP = FlatModel(network(trap=True)).vector()
OTHERS = torch.rand(20, 8, generator=torch.Generator().manual_seed(1)) * 0.9
TARGET = torch.tensor([[1.0] * 4 + [0.0] * 4])


def noiseless_sum(federate, features: torch.Tensor):
    """What all clients encrypt without its noise, in the vector's units, where the first one holds these records."""
    machines = federate(length=len(TRAP))
    machines.tasks["client-0"] = Trains(features)
    machines.clients["client-0"] = machines.client("client-0")
    invitation = machines.invited(0, model=ReleasedModel.public(TRAP))
    uploads = machines.uploads(invitation)
    attacker = Attacker(machines, announcement_in(invitation), uploads, truth={})
    opened = attacker.opened(uploads, dict.fromkeys(machines.names, 1))
    noise = np.sum([noise_in(machines, name, attacker.announcement) for name in machines.names], axis=0)
    grid = grid_of(attacker.header)
    return (opened - noise) * grid.step, grid.sensitivity


def test_one_record_moves_the_sum_by_no_more_than_its_sensitivity(federate):
    """The server trains on a finite model of huge weights, under which one certain record's gradient overflows.

    The client takes part in any case, so that participation tells nothing; and the sum must not tell either: a record
    whose gradient is not finite counts as zero, and not its whole silo.
    """
    without, sensitivity = noiseless_sum(federate, OTHERS)
    with_it, _ = noiseless_sum(federate, torch.cat([OTHERS, TARGET]))
    assert np.abs(without).max() > 0.0
    assert np.linalg.norm(with_it - without) <= sensitivity
