"""What the tests of shadow runs share: small federations, marks, and a test of two laws by samples of each."""

from __future__ import annotations

import numpy as np
from small_federations import plan_for, silos

from secure_fu.auditor.shadow.federation import ShadowFederation
from secure_fu.learning import FlatModel, PerRecordGradients, mlp
from secure_fu.privacy import Unit

MODULE = mlp(5, (), 3, 0)
MODEL = FlatModel(MODULE)
GRADIENTS = PerRecordGradients(MODEL)
CLIENTS = silos()
MARKED = {"silo-1": (0, 3, 7)}


def marks(clients=CLIENTS, marked=MARKED):
    found = {name: np.zeros(len(records), dtype=bool) for name, records in clients.items()}
    for name, places in marked.items():
        found[name][list(places)] = True
    return found


def shadow(seed=0, *, unit=Unit.RECORD, clients=CLIENTS, plan=None, rounds=2, **arguments):
    made = plan_for(MODULE, unit, len(clients), rounds) if plan is None else plan
    return ShadowFederation(MODEL, clients, plan=made, seed=seed, gradients=GRADIENTS, **arguments)


def _welch(first, second):
    """How far the means are apart, in standard deviations of their difference; along the last axis of (..., n)."""
    variance = first.var(axis=-1, ddof=1) / first.shape[-1] + second.var(axis=-1, ddof=1) / second.shape[-1]
    return (first.mean(axis=-1) - second.mean(axis=-1)) / np.sqrt(variance)


def distance_of_laws(first, second, functionals=18):
    """The largest deviation of means of linear functionals, and that of their spread together.

    Args:
        first, second: samples (runs, d).

    Returns:
        (means, spread): under equal laws the first is the largest of so many standard normal numbers, nearly, and the
        second is one.
    """
    directions = np.random.default_rng(7).normal(size=(first.shape[1], functionals))
    one, two = (sample @ directions for sample in (first, second))
    pooled = np.concatenate([one - one.mean(axis=0), two - two.mean(axis=0)])
    squares = [(((own - own.mean(axis=0)) / pooled.std(axis=0)) ** 2).sum(axis=1) for own in (one, two)]
    # A sample's mean is part of it: without this the smaller sample would look narrower.
    squares = [own * len(own) / (len(own) - 1) for own in squares]
    return float(np.abs(_welch(one.T, two.T)).max()), float(_welch(*squares))
