"""Deletion runs trained as one stack, for controls and for models that this project did not train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_fu.audit.deletion.runs import DeletionRuns, Part, secret_parts
from secure_fu.errors import ArgumentError
from secure_fu.learning import FlatModel, Records, StackedTraining, train_stacked

__all__ = ["FINETUNE", "RETRAIN", "stacked_deletion_runs"]

RETRAIN: Final = "retrain"
FINETUNE: Final = "finetune"
_DOMAIN: Final = 0x64656C6574696F6E  # "deletion": seeds that no other training of the same seed meets
_BEFORE, _RETRAINED, _RETRAIN, _FINETUNE = range(4)


def stacked_deletion_runs(
    model: FlatModel,
    targets: Records,
    others: Records | None,
    test: Records,
    *,
    runs: int,
    training: StackedTraining,
    seed: int,
    units: NDArray[np.int64] | None = None,
    forgotten: int | None = None,
    finetune_steps: int | None = None,
    parts: NDArray[np.int8] | None = None,
    fixed_randomness: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DeletionRuns:
    """Train and delete R times, with the two procedures that need nothing but training: retraining and fine-tuning.

    ``retrain`` is a second, independent set of retrained models: the control that has to pass. ``finetune`` goes on
    training ``before`` on what is retained.

    Args:
        model: architecture, and the start of every training.
        targets, others, test: as :class:`DeletionRuns` has them.
        runs: R, at least 3.
        training: how models are trained, before and anew.
        seed: of parts, sampling and noise, >= 0; from a domain of its own.
        units: the unit of each target record; each record its own where None.
        forgotten: units that are forgotten in a run; a third where None.
        finetune_steps: a tenth of training's where None; 0 leaves the method out.
        parts: given parts in place of drawn ones, such as a class a run.
        fixed_randomness: every training draws the same samples and noise. Then the difference of two models is the
            deletion's alone: the worst case for inversion. No retraining is then independent, and ``retrain`` is left
            out.
        progress: told (models done, of this training) now and then.

    Raises:
        ArgumentError: an argument does not fit.
        NonFiniteError: training diverged.
    """
    if runs < 3:
        raise ArgumentError("runs", runs, "at least 3")
    if seed < 0:
        raise ArgumentError("seed", seed, "an integer >= 0")
    owners = np.arange(len(targets), dtype=np.int64) if units is None else units
    count = int(owners.max()) + 1
    if parts is None:
        drawn = int(np.random.SeedSequence([_DOMAIN, seed]).generate_state(1, np.uint64)[0])
        parts = secret_parts(runs, count, seed=drawn, forgotten=forgotten)
    pool = targets if others is None else _joined(targets, others)
    of_records = parts[:, owners]
    always = np.ones((runs, len(pool) - len(targets)), dtype=np.bool_)
    joined = np.concatenate([of_records != Part.NEVER, always], axis=1)
    retained = np.concatenate([of_records == Part.RETAINED, always], axis=1)

    def trained(
        members: NDArray[np.bool_], phase: int, start: NDArray[np.float64] | NDArray[np.float32], how: StackedTraining
    ) -> NDArray[np.float32]:
        words = [[_DOMAIN, seed] if fixed_randomness else [_DOMAIN, seed, phase, run] for run in range(runs)]
        seeds = [int(np.random.SeedSequence(word).generate_state(1, np.uint64)[0]) for word in words]
        return train_stacked(model, pool, members, training=how, start=start, seeds=seeds, progress=progress)

    start = model.vector()
    before = trained(joined, _BEFORE, start, training)
    after = {}
    if not fixed_randomness:
        after[RETRAIN] = trained(retained, _RETRAIN, start, training)
    steps = max(1, training.steps // 10) if finetune_steps is None else finetune_steps
    if steps > 0:
        after[FINETUNE] = trained(retained, _FINETUNE, before, replace(training, steps=steps))
    return DeletionRuns(
        model=model,
        targets=targets,
        units=owners,
        parts=parts,
        others=others,
        test=test,
        before=before,
        retrained=trained(retained, _RETRAINED, start, training),
        after=after,
    )


def _joined(first: Records, second: Records) -> Records:
    return Records.from_arrays(
        np.concatenate([first.features.numpy(), second.features.numpy()]),
        np.concatenate([first.labels.numpy(), second.labels.numpy()]),
    )
