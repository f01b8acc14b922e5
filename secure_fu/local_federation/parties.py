"""Who takes part in the local federation, on what terms, and with which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.crypto import Role
from secure_fu.errors import ArgumentError

__all__ = ["SERVER", "TERMS_TEXT", "Cast", "digits"]

SERVER: Final = "server"
_MODULUS: Final = 5  # every fifth digit is public test data
TERMS_TEXT: Final = """\
# Six hospitals train a classifier of handwritten digits together, and forget records on demand.
# Every value is public, and none was chosen by looking at anybody's data.

[model]
kind = "mlp"
inputs = 64
hidden = [32]
classes = 10
seed = 0

[plan]
unit = "record"
nominal_units = 1440     # records that the federation is designed for
minimum_cohort = 4       # of six hospitals
colluders = 1
epsilon = 8.0            # a record's budget, for training and deletions together
delta = 1e-5
deletion_reserve = 0.5
rounds = 10
sampling_rate = 0.5
learning_rate = 1.0
momentum = 0.8
checkpoint_every = 2

[scheme]
name = "kahe"

[committee]              # of four members, at four of the hospitals
threshold = 3
quorum = 3
corrupt = 1

[methods.rollback]
forget_epsilon = 4.0     # at most so much may the record have paid up to the checkpoint

[deletion]
window_start = 1735689600
window_seconds = 86400
minimum_batch = 1
method = "rollback"
settings = { forget_epsilon = 4.0 }
largest_wait_seconds = 2592000
execution_seconds = 3600
"""
"""What the federation is founded on, as an operator writes it.

See :func:`~secure_fu.deployment.founding.terms.read_terms`.
"""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Nodes with their parties, and who does what in the story.

    Attributes:
        nodes: names of the parties at each node, by its name; the first is a client.
        asks: the node whose client asks for a deletion, and which is killed.
        verifies: the node whose operator verifies the certificate, with what it has pinned.

    Raises:
        ArgumentError: a node is named that there is not.
    """

    nodes: Mapping[str, tuple[str, ...]]
    asks: str = "node-2"
    verifies: str = "node-5"

    def __post_init__(self) -> None:
        for name in ("asks", "verifies"):
            if getattr(self, name) not in self.nodes:
                raise ArgumentError(name, getattr(self, name), f"one of {', '.join(self.nodes)}")

    @classmethod
    def hospitals(cls) -> Cast:
        """Six hospitals, a node each; members of the committee at four of them."""
        members = {1: "member-1", 3: "member-2", 4: "member-3", 6: "member-4"}
        return cls(
            nodes={
                f"node-{place}": (f"hospital-{place}", *([members[place]] if place in members else []))
                for place in range(1, 7)
            }
        )

    @property
    def requester(self) -> str:
        """The client that asks."""
        return self.nodes[self.asks][0]

    def roles(self, node: str) -> dict[str, Role]:
        """The parties of a node with their roles."""
        return {name: Role.MEMBER if name.startswith("member") else Role.CLIENT for name in self.nodes[node]}


Part = tuple[NDArray[np.float64], NDArray[np.int64]]


def digits(parts: int) -> tuple[list[Part], Part]:
    """scikit-learn's digits: features (n, 64) in [0, 1] and labels (n,).

    Returns:
        disjoint parts of almost equal size, one a hospital; and the public test data, which no hospital has.
    """
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    test, rest = order[::_MODULUS], np.delete(order, np.s_[::_MODULUS])
    features = features / 16.0
    return [(features[part], labels[part]) for part in np.array_split(rest, parts)], (features[test], labels[test])
